"""When a stream's frames go out as a chunk: before its caller has played all that it got.

The first chunk is the smallest that can be heard. From then on a caller who plays what comes is known to run dry at a
certain time, and frames are held back only as long as that is some way off. So the slower the frames come, the smaller
are the chunks, and no caller starves because the next chunk was too large, as long as frames are made faster than they
play; the faster they come, the sooner the chunks are full ones.
"""

from __future__ import annotations

from misotts.config import FRAME_MS, MAX_CHUNK_FRAMES

FULL_FRAMES = 8
"""A chunk of this many goes out however much its caller has: what is held back helps nobody in a hiccup."""

CROWD = 128
"""So many running streams make every chunk, the least and the full one, that much longer again: each costs three stages
some host time."""

LEAD_S = 0.16
"""What a caller should have left when a chunk goes out, for what may go wrong before the next: two frames."""


class Pace:
    """One stream's chunk sizes. Times are seconds of one clock."""

    def __init__(self, chunk_frames: int, now: float) -> None:
        """`chunk_frames`: frames of every chunk; 0 leaves it to the pace."""
        self._chunk_frames = chunk_frames
        self._last_frame = now
        self._runs_dry: float | None = None
        """When the caller will have played all, if it plays from the first chunk on without a pause of its own."""

    def full(self, frames: int, first_frames: int, running: int, now: float) -> bool:
        """Whether `frames` frames, the last of which has just come, should go out now. `first_frames`: how many it
        takes for the first to be heard, the later stages' delay included; `running`: streams that speak at present."""
        step_s, self._last_frame = now - self._last_frame, now
        crowded = 1 + running // CROWD
        if self._chunk_frames:
            goes = frames >= self._chunk_frames
        elif self._runs_dry is None:
            goes = frames >= first_frames - 1 + crowded
        elif now + step_s + LEAD_S < self._runs_dry:
            goes = frames >= min(FULL_FRAMES * crowded, MAX_CHUNK_FRAMES)
        else:
            goes = frames >= min(crowded, MAX_CHUNK_FRAMES)
        if goes:
            heard = frames - (first_frames - 1 if self._runs_dry is None else 0)
            self._runs_dry = max(self._runs_dry or now, now) + max(heard, 0) * FRAME_MS / 1000
        return goes
