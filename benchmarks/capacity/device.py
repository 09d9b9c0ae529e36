"""A device whose stages slow each other down when they work at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import simpy


@dataclass(eq=False)
class _Job:
    left_s: float
    """Seconds of work left, at full speed."""
    done: simpy.Event


class Device:
    """Cores or a GPU. Every job under way goes at the same speed, which depends on how many there are."""

    def __init__(self, environment: simpy.Environment, speed: Callable[[int], float]) -> None:
        """`speed(n)`: of each of n jobs, 1 for a job alone."""
        self._environment, self._speed = environment, speed
        self._jobs: list[_Job] = []
        self._since = environment.now
        self._changes = 0
        self.busy_s = 0.0
        """Time in which there was any job."""

    def work(self, seconds: float) -> simpy.Event:
        """Begin a job that takes `seconds` alone; the event is its end."""
        self._catch_up()
        job = _Job(seconds, self._environment.event())
        self._jobs.append(job)
        self._await_next_end()
        return job.done

    def _catch_up(self) -> None:
        """Take from every job what has been done of it since the last change."""
        now = self._environment.now
        if self._jobs:
            self.busy_s += now - self._since
            done_s = (now - self._since) * self._speed(len(self._jobs))
            for job in self._jobs:
                job.left_s -= done_s
        self._since = now

    def _await_next_end(self) -> None:
        self._changes += 1
        if not self._jobs:
            return
        next_job, changes = min(self._jobs, key=lambda job: job.left_s), self._changes
        wait = self._environment.timeout(max(next_job.left_s, 0.0) / self._speed(len(self._jobs)))

        def end(_: simpy.Event) -> None:
            if changes != self._changes:  # a job that came or went meanwhile has set another time
                return
            self._catch_up()
            self._jobs.remove(next_job)
            next_job.done.succeed()
            self._await_next_end()

        assert wait.callbacks is not None
        wait.callbacks.append(end)
