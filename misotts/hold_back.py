"""The frames of a stream that the watermark holds back: `generate` must know what reaches the caller."""

from __future__ import annotations

from dataclasses import dataclass

GRADUAL = 3
"""Of this many frames that arrive, one more is held back, until all are that must be. Two frames (160 ms of audio) then
go out in the time of three steps: no caller runs out of audio while a step takes at most 53 ms."""


@dataclass(frozen=True)
class HoldBack:
    """Depends on nothing but the number of frames that have arrived, so that a stream is the same however it is cut."""

    frames: int = 0
    """The most that are held back."""
    every: int = 1
    """One more frame is held back for this many that arrive. With 1 nothing goes out before `frames` are held back."""

    def gone(self, arrived: int) -> int:
        """Return the number of frames that have gone out when `arrived` frames have arrived."""
        return arrived - min(self.frames, arrived // self.every)

    def arrived(self, frame: int) -> int:
        """Return the number of frames that have arrived when frame `frame`, counted from 0, goes out."""
        return frame + 1 + min(self.frames, frame // (self.every - 1) if self.every > 1 else self.frames)
