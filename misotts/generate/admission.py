"""Admission: how many utterances may run, and how long a new one would wait for its slot.

With the rule `pace`, as many utterances run as generation can carry at the pace of playback. A step of n frames takes
a + b n seconds, where a and b are not known. What a step of n frames in t seconds shows is therefore one-sided: if t is
below a frame's 80 ms, then at least n * 80 ms / t can be carried, and if it is above, at most that many. Steps that
take much longer than their neighbours, as on a machine that other work shares, count by their spans' means: at n = 1
they would show that nothing can be carried.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from itertools import cycle, islice

import numpy as np
import numpy.typing as npt

from misotts.generate.flow import FlowOptions
from misotts.generate.pace import FRAME_S

WINDOW_S = 10.0
SHARE = 0.9
"""Quantile of the spans' step times that must stay below 80 ms."""
GOAL_S = 0.8 * FRAME_S
"""Step time up to which more utterances are let in. Between it and 80 ms nothing changes, so that the number of
utterances does not swing, and streams gain on playback until the machine is disturbed."""
SPAN_S = 0.25
"""Steps are judged by their mean time in spans of this length: a listener's audio bridges one that takes long."""
MIN_SPANS = 3
RECOVER_S = 30.0
"""Time after which one more is tried again where too many were too slow: the machine may have been disturbed."""
KEPT_LENGTHS = 32

_Floats = npt.NDArray[np.float64]


class Admission:
    """Decides how many utterances may run. Times are seconds of the caller's clock."""

    def __init__(self, options: FlowOptions, slots: int) -> None:
        self.options = options
        self.most = slots
        """Utterances that may run, as far as is known: no more than `slots`."""
        self.proven = slots if options.admission == "slots" else 1
        """Utterances that can be carried for certain; grows to `most` as larger steps are measured."""
        self.step_s = 0.0
        """Mean step time that nine of ten spans stay below; 0 before any is measured."""
        self._slots, self._changed = slots, 0.0
        self._spans: deque[tuple[float, float, float]] = deque()
        """Time, mean time of a step, and mean number of its frames."""
        self._span = (0.0, 0, 0)
        """Seconds, steps and frames of the span that is not complete."""
        self._full_step_s = 0.0
        """Mean time of the steps with the most frames."""
        self._lengths: deque[tuple[int, int]] = deque(maxlen=KEPT_LENGTHS)

    def add_step(self, seconds: float, frames: int, now: float) -> None:
        """Record a step of `seconds` that sampled `frames` frames."""
        if frames:
            spent, steps, sampled = self._span[0] + seconds, self._span[1] + 1, self._span[2] + frames
            self._span = (spent, steps, sampled)
            if spent >= SPAN_S:
                self._span = (0.0, 0, 0)
                self._spans.append((now, spent / steps, sampled / steps))
                while self._spans[0][0] <= now - WINDOW_S:  # of work: what an idle server has learned stays
                    self._spans.popleft()

    def add_end(self, frames: int, most: int) -> None:
        """Record that speech of at most `most` frames came to its end after `frames`."""
        self._lengths.append((frames, most))

    def refresh(self, now: float) -> None:
        """Draw the conclusions from the steps so far; it is called some ten times a second."""
        if len(self._spans) < MIN_SPANS:
            return
        _, seconds, frames = np.array(self._spans).T
        self.step_s = float(np.quantile(seconds, SHARE))
        # Those with the most frames say most about steps with more.
        enough = np.sort(frames)[-MIN_SPANS]
        large = frames >= 0.75 * enough
        self._full_step_s = float(seconds[large].mean())
        if self.options.admission == "pace":
            self._judge(seconds[large], frames[large], round(enough), now)

    def _judge(self, seconds: _Floats, frames: _Floats, enough: int, now: float) -> None:
        """Draw the conclusions from large steps. `enough`: frames that some of the steps had at least."""
        step_s = np.quantile(seconds, SHARE)
        carried = min(max(int(GOAL_S / np.quantile(seconds / frames, SHARE)), 1), self._slots)
        if step_s > FRAME_S:
            self.proven = self.most = min(self.proven, carried)
            self._changed = now
        elif step_s > GOAL_S:
            self.most = self.proven if enough >= self.proven else self.most
        else:
            if now - self._changed >= RECOVER_S:
                self.most, self._changed = min(self.most + 1, self._slots), now
            # Where a is large, only one more utterance can show that the next step takes hardly longer.
            self.proven = max(self.proven, carried, min(enough + 1, self.most))
            self.most = max(self.most, self.proven)

    def _left_s(self, frames: int, most: int, shares: list[float]) -> float:
        """Return the expected time until an utterance of at most `most` frames ends, which has `frames` frames.
        `shares`: lengths of the last that ended, each as a share of the most that it might have had."""
        longer = [share for share in shares if share * most > frames]
        # One that is longer than the others may end at any time.
        expected = sum(longer) / len(longer) * most if longer else (frames + most) / 2
        return (expected - frames) * self._full_step_s

    def waits(self, running: Iterable[tuple[int, int]], waiting: Iterable[int], count: int) -> list[float]:
        """Return the expected waits of the next `count` utterances for their slots, behind those that are `waiting`; 0
        before steps are measured. Each is taken to be as long as one of the last that ended.

        Args:
            running: frames so far and most frames of each utterance that has a slot.
            waiting: most frames of each utterance before them in the queue.
        """
        shares = [ended / longest for ended, longest in self._lengths] or [1.0]
        ends = sorted(self._left_s(frames, most, shares) for frames, most in running)[-self.most :]
        ends += [0.0] * (self.most - len(ends))
        heapq.heapify(ends)
        for most in waiting:
            heapq.heapreplace(ends, ends[0] + self._left_s(0, most, shares))
        waits = []
        for frames in islice(cycle([frames for frames, _ in self._lengths] or [1]), count):
            waits.append(ends[0])
            heapq.heapreplace(ends, ends[0] + frames * self._full_step_s)
        return waits
