"""One utterance on its way through the generate stage."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from misotts.config import NO_SLOT
from misotts.order import Order

_streams = itertools.count(1)


@dataclass(eq=False)
class Utterance:
    """What was asked for, and how far it has come."""

    order: Order

    # The rest is set by the scheduler and the core.
    stream: int = field(default_factory=lambda: next(_streams))
    """Names the utterance to the later stages; never used twice by a process."""
    slot: int = NO_SLOT
    """Row of the batch state, and slot of the later stages' state; held from admission until the last chunk is
    acknowledged."""
    keys: list[bytes] = field(default_factory=list)
    """Names of the prompt's full blocks."""
    blocks: list[int] = field(default_factory=list)
    cached: int = 0
    """Positions whose keys and values are in `blocks`."""
    drawn: int = 0
    """Frames drawn, those among them whose codes are still on the device."""
    frames: list[np.ndarray] = field(default_factory=list)
    """Codes of the frames that have been read back, int32 [codebooks] each."""
    finish: str = ""
    """Why no more frames come: `eos`, `length`, `error: ...`; empty while they do."""

    @property
    def known(self) -> int:
        """Positions whose input is known: the prompt, then the frames drawn. The next step caches the last of them."""
        return len(self.order.frames) + self.drawn

    @property
    def decodes(self) -> bool:
        """Whether the last frame drawn is all that is not cached."""
        return self.drawn > 0 and self.cached == self.known - 1

    @property
    def last_position(self) -> int:
        """Positions that the cache must be able to hold: the last frame is never fed back."""
        return len(self.order.frames) + self.order.max_frames - 1
