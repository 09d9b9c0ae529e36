"""Decides when a stream's frames are sent as a chunk: before the caller has played everything that it received.

The first chunk is the smallest that can be heard. If the caller plays what it receives, the time at which it runs out
of audio is then known, and frames are held back only while that time is far enough away. So slow generation makes small
chunks, fast generation makes full ones, and as long as generation is faster than playback no caller runs out of audio
because the next chunk was too large.
"""

from __future__ import annotations

from misotts.config import FRAME_MS, MAX_CHUNK_FRAMES
from misotts.hold_back import HoldBack

FULL_FRAMES = 8
"""Chunks become no longer than this while the caller has little audio: frames that are held back do not help when
generation stalls."""

HELD_SHARE = 0.5
"""Time for which frames may be held back for a longer chunk, as a share of the caller's audio: each chunk costs the
host time in three stages and in the gateway."""

MOST_SHARE = 2.0
"""Audio of a chunk as a share of the caller's: decode and watermark take longer for a longer one, and all of a fast
engine's streams have long chunks at once."""

MANY_STREAMS = 128
"""This many running streams add the smallest chunk's size and `FULL_FRAMES` once more."""

LEAD_S = 0.16
"""Audio that a caller should still have when a chunk is sent, two frames, in case the next one is late."""

LEAST_AHEAD_S = 1.0
"""Audio that a stream may make in any case, beyond what the later stages and one chunk hold back. With less, its caller
would be about to run out at any time, for which batch work pauses and nothing is admitted."""

BATCH_SHARE = 0.5
"""Share of a chunk's time in the later stages that the batch with the next one takes."""

FRAME_S = FRAME_MS / 1000


class Pace:
    """Chunk sizes of one stream. Times are seconds of one clock."""

    def __init__(self, chunk_frames: int, hold_back: HoldBack, now: float) -> None:
        """`chunk_frames`: frames of every chunk, 0: as many as `full` decides."""
        self._chunk_frames, self._hold_back = chunk_frames, hold_back
        self._last_frame = self._last_chunk = now
        self._sent = 0
        """Frames in the chunks so far."""
        self._began: float | None = None
        """Time at which the caller begins to play; None before its first audio is sent."""
        self._played_out = now
        """Time at which the caller will have played everything, if it plays without pause from the first chunk on."""

    def full(self, frames: int, running: int, delay_s: float, now: float, first: int = 1, slow: bool = False) -> bool:
        """True if `frames` frames, the last of which is new, should be sent now.

        Args:
            running: number of running streams.
            delay_s: time that the later stages have lately taken for a chunk. They do one chunk of a stream after the
                other, so a chunk must play for about as long as the next one takes, which may take that much longer.
            first: number of frames that the caller should hear in the first chunk at least.
            slow: True if the next audio may come late. The first chunk then has about as many frames as if all were
                held back from the stream's start: its caller has more to play until the next one comes.
        """
        step_s, self._last_frame = now - self._last_frame, now
        heard = self._hold_back.gone(self._sent + frames) - self._audible
        scale = max(1 + running // MANY_STREAMS, round(BATCH_SHARE * delay_s / FRAME_S))
        if self._chunk_frames:
            due = frames >= self._chunk_frames
        elif self._began is None:
            first = max(scale, first)
            if slow:
                first = self._hold_back.gone(self._hold_back.frames + first)
            due = heard >= min(first, MAX_CHUNK_FRAMES)
        elif now + step_s + LEAD_S + delay_s < self._played_out:
            full, left_s = max(FULL_FRAMES * (1 + running // MANY_STREAMS), scale), self.left_s(now)
            late = now + step_s - self._last_chunk > HELD_SHARE * left_s
            most = min(max(full, MOST_SHARE * left_s / FRAME_S), MAX_CHUNK_FRAMES)
            due = (frames >= full and late) or frames >= most
        else:
            due = heard >= scale or frames >= MAX_CHUNK_FRAMES
        if due:
            self._last_chunk = now
            self._sent += frames
            if heard:
                self._began = now if self._began is None else self._began
                self._played_out = max(self._played_out, now) + heard * FRAME_S
        return due

    @property
    def _audible(self) -> int:
        """Frames that have been sent and that the later stages do not hold back."""
        return self._hold_back.gone(self._sent)

    def playing_s(self, now: float) -> float | None:
        """Return the time since the caller's first audio was sent; None before that."""
        return None if self._began is None else now - self._began

    def left_s(self, now: float) -> float:
        """Return the audio that has been sent and that the caller has not played, in s."""
        return max(self._played_out - now, 0.0)

    def ahead(self, generated: int, lead_s: float, now: float) -> bool:
        """True if `generated` frames, sent or not, are more than `lead_s` of audio ahead of playback. A lead that is
        smaller than `LEAST_AHEAD_S` beyond what the later stages and one chunk hold back counts as that much."""
        if self._began is None:
            return False
        least_s = (self._hold_back.frames + max(self._chunk_frames, 1)) * FRAME_S + LEAST_AHEAD_S
        return self.left_s(now) + (generated - self._audible) * FRAME_S > max(lead_s, least_s)
