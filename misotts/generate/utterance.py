"""One utterance on its way through the generate stage."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

EOS = "eos"
LENGTH = "length"

NO_SEAT = -1

_streams = itertools.count(1)


@dataclass(eq=False)
class Utterance:
    """What was asked for, and how far it has come."""

    prompt: np.ndarray
    """int32 [positions, codebooks + 1], unused columns `MASKED`."""
    max_frames: int
    seed: int
    temperature: float = 0.9
    """0 is greedy."""
    top_k: int = 50
    chunk_frames: int = 0
    """Frames of every chunk; 0 is the server's ramp."""
    deadline: float | None = None
    """`time.monotonic()` seconds at which the utterance is given up."""

    stream: int = field(default_factory=lambda: next(_streams))
    """Names the utterance to the later stages; never used twice by a process."""
    seat: int = NO_SEAT
    """Row of the batch state, and slot of the later stages' state; held from admission until the last chunk is
    acknowledged."""
    blocks: list[int] = field(default_factory=list)
    cached: int = 0
    """Positions whose keys and values are in `blocks`."""
    frames: int = 0
    """Frames drawn, the end-of-speech frame not among them."""
    finish: str = ""
    """Why no more frames come: `eos`, `length`, `error: ...`; empty while they do."""

    @property
    def last_position(self) -> int:
        """Positions that the cache must be able to hold: the last frame is never fed back."""
        return len(self.prompt) + self.max_frames - 1

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt is in the cache, so that each step draws a frame."""
        return self.cached >= len(self.prompt)
