"""Admission: how many utterances may run, and how long a new one would wait for its slot.

With the rule `pace`, as many utterances have slots as the server can carry at the pace of playback. What counts is how
long a stream with a slot waits for each frame that the later stages are done with: the step, the later stages where
they are slower, and whatever else takes the machine's time. With n streams that takes a + b n seconds, where a and b
are not known. What n streams with t seconds a frame show is therefore one-sided: if t is below a frame's 80 ms, then at
least n * 80 ms / t can be carried, and if it is above, at most that many.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from itertools import accumulate, cycle, islice

import numpy as np

from misotts.generate.flow import FlowOptions
from misotts.generate.pace import FRAME_S

WINDOW_S = 10.0
GOAL_S = 0.8 * FRAME_S
"""Time of a frame up to which more utterances are let in. Between it and 80 ms nothing changes, so that the number of
utterances does not swing, and streams gain on playback before other work takes the machine's time."""
SPAN_S = 0.25
"""Frames are counted in spans of this length. The mean of the spans with the most streams is judged: a quantile of
single steps at n = 1 shows, where other work takes the machine's time, that nothing can be carried."""
MIN_SPANS = 3
RECOVER_S = 30.0
"""Time after which one more is tried again where too many were too slow: the machine may have been disturbed."""
KEPT_LENGTHS = 64
"""Lengths that are remembered: of a burst to an idle server the short utterances end first, and fewer would be the long
ones alone."""


class Admission:
    """Decides how many utterances may run. Times are seconds of the caller's clock."""

    def __init__(self, options: FlowOptions, slots: int) -> None:
        self.options = options
        self.most = slots
        """Utterances that may run, as far as is known: no more than `slots`."""
        self.proven = slots if options.admission == "slots" else 1
        """Utterances that can be carried for certain; grows to `most` as more streams are measured."""
        self.frame_s = 0.0
        """Mean time for which a stream has its slot for each of its frames; 0 before any is measured."""
        self._slots, self._changed = slots, 0.0
        self._spans: deque[tuple[float, float, float, int]] = deque()
        """Time of the end, seconds, slots times seconds, frames."""
        self._span = (0.0, 0.0, 0)
        """The same of the span that is not complete."""
        self._lengths: deque[tuple[int, int]] = deque(maxlen=KEPT_LENGTHS)

    def add_time(self, seconds: float, streams: int, frames: int, now: float) -> None:
        """Record that `streams` streams had slots for `seconds`, in which the later stages were done with
        `frames` of their frames."""
        if not streams:
            return
        spent, held, done = self._span
        spent, held, done = spent + seconds, held + seconds * streams, done + frames
        self._span = (spent, held, done)
        if spent >= SPAN_S:
            self._span = (0.0, 0.0, 0)
            self._spans.append((now, spent, held, done))
            while self._spans[0][0] <= now - WINDOW_S:  # of work: what an idle server has learned stays
                self._spans.popleft()

    def add_end(self, frames: int, most: int) -> None:
        """Record that speech of at most `most` frames came to its end after `frames`."""
        self._lengths.append((frames, most))

    def refresh(self, now: float) -> None:
        """Draw the conclusions from the spans so far; it is called some ten times a second."""
        if len(self._spans) < MIN_SPANS:
            return
        _, seconds, held, frames = np.array(self._spans).T
        streams = held / seconds
        # Those with the most streams say most about more of them.
        enough = np.sort(streams)[-MIN_SPANS]
        large = streams >= 0.75 * enough
        done = frames[large].sum()
        if not done:
            return
        self.frame_s = float(held[large].sum() / done)
        if self.options.admission == "pace":
            self._judge(int(GOAL_S * done / seconds[large].sum()), round(enough), now)

    def _judge(self, carried: int, enough: int, now: float) -> None:
        """Draw the conclusions from the spans with the most streams. `carried`: streams that their frames are enough
        for; `enough`: streams that some of the spans had at least."""
        carried = min(max(carried, 1), self._slots)
        if self.frame_s > FRAME_S:
            self.proven = self.most = min(self.proven, carried)
            self._changed = now
        elif self.frame_s > GOAL_S:
            self.most = self.proven if enough >= self.proven else self.most
        else:
            if now - self._changed >= RECOVER_S:
                self.most, self._changed = min(self.most + 1, self._slots), now
            # Where a is large, only one more utterance can show that its frames take hardly longer.
            self.proven = max(self.proven, carried, min(enough + 1, self.most))
            self.most = max(self.most, self.proven)

    def hold(self, streams: int) -> None:
        """Record that `streams` streams are too many now: those that wait wait for one of them to end."""
        self.most = self.proven = max(min(self.proven, streams), 1)

    def waits(self, running: Iterable[tuple[int, int, int]], waiting: Iterable[int], count: int) -> list[float]:
        """Return the expected waits of the next `count` utterances for their slots, behind those that are `waiting`; 0
        before steps are measured. Each is taken to be as long as one of the last that ended.

        Args:
            running: `Stream.progress` of each utterance that has a slot.
            waiting: most frames of each utterance before them in the queue.
        """
        lengths = _Lengths([ended / longest for ended, longest in self._lengths])
        ends = sorted(lengths.left(*each) * self.frame_s for each in running)[-self.most :]
        ends += [0.0] * (self.most - len(ends))
        heapq.heapify(ends)
        for most in waiting:
            heapq.heapreplace(ends, ends[0] + lengths.left(0, most) * self.frame_s)
        waits = []
        for frames in islice(cycle([frames for frames, _ in self._lengths] or [1]), count):
            waits.append(ends[0])
            heapq.heapreplace(ends, ends[0] + frames * self.frame_s)
        return waits


class _Lengths:
    """The lengths of utterances that have ended, each as a share of the most that it might have had."""

    def __init__(self, shares: list[float]) -> None:
        self._shares = sorted(shares or [1.0])
        self._sums = list(accumulate(reversed(self._shares)))[::-1]

    def left(self, frames: int, most: int, under_way: int = 0) -> float:
        """Return the number of frames that are to be made of an utterance with `frames` frames and at most `most`, and
        those `under_way` in the later stages."""
        first = bisect_right(self._shares, frames / most)
        if first < len(self._shares):
            expected = self._sums[first] / (len(self._shares) - first) * most
        else:  # it is longer than the others, and may end at any time
            expected = (frames + most) / 2
        return expected - frames + under_way
