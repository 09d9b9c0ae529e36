"""A device with stages that slow each other down when they work at the same time."""

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
    """Cores or a GPU. All jobs run at the same speed, which depends on their number."""

    def __init__(self, environment: simpy.Environment, speed: Callable[[int], float]) -> None:
        """`speed(n)`: speed of each of n jobs; 1 for a job alone."""
        self._environment, self._speed = environment, speed
        self._jobs: list[_Job] = []
        self._since = environment.now
        self._changes = 0
        self.busy_s = 0.0
        """Time with at least one job."""

    def work(self, seconds: float) -> simpy.Event:
        """Begin a job that takes `seconds` alone; return the event of its end."""
        self._catch_up()
        job = _Job(seconds, self._environment.event())
        self._jobs.append(job)
        self._await_next_end()
        return job.done

    def _catch_up(self) -> None:
        """Subtract the work since the last change from every job."""
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
            if changes != self._changes:  # another job has begun or ended, and set another time
                return
            self._catch_up()
            self._jobs.remove(next_job)
            next_job.done.succeed()
            self._await_next_end()

        assert wait.callbacks is not None
        wait.callbacks.append(end)
