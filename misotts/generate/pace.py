"""Decides when a stream's frames are sent as a chunk: before the caller has played everything that it received.

The first chunk is the smallest that can be heard. If the caller plays what it receives, the time at which it runs out
of audio is then known, and frames are held back only while that time is far enough away. So slow generation makes small
chunks, fast generation makes full ones, and as long as generation is faster than playback no caller runs out of audio
because the next chunk was too large.
"""

from __future__ import annotations

from misotts.config import FRAME_MS, MAX_CHUNK_FRAMES

FULL_FRAMES = 8
"""A chunk of this many frames is sent however much audio the caller has: frames that are held back do not help when
generation stalls."""

MANY_STREAMS = 128
"""This many running streams add the smallest chunk's size and the full size once more: each chunk costs the host time
in three stages."""

LEAD_S = 0.16
"""Audio that a caller should still have when a chunk is sent, two frames, in case the next one is late."""


class Pace:
    """Chunk sizes of one stream. Times are seconds of one clock."""

    def __init__(self, chunk_frames: int, first_frames: int, now: float) -> None:
        """`chunk_frames`: frames of every chunk, 0: as many as `full` decides. `first_frames`: frames that it takes
        until the first is heard, including the later stages' delay."""
        self._chunk_frames, self._first_frames = chunk_frames, first_frames
        self._last_frame = now
        self._played_out: float | None = None
        """Time at which the caller will have played everything, if it plays without pause from the first chunk on."""

    def full(self, frames: int, running: int, now: float) -> bool:
        """True if `frames` frames, the last of which is new, should be sent now. `running`: number of running
        streams."""
        step_s, self._last_frame = now - self._last_frame, now
        scale = 1 + running // MANY_STREAMS
        if self._chunk_frames:
            due = frames >= self._chunk_frames
        elif self._played_out is None:
            due = frames >= self._first_frames - 1 + scale
        elif now + step_s + LEAD_S < self._played_out:
            due = frames >= min(FULL_FRAMES * scale, MAX_CHUNK_FRAMES)
        else:
            due = frames >= min(scale, MAX_CHUNK_FRAMES)
        if due:
            heard = frames - (self._first_frames - 1 if self._played_out is None else 0)
            self._played_out = max(self._played_out or now, now) + max(heard, 0) * FRAME_MS / 1000
        return due
