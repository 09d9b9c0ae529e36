"""One utterance on its way through the generate stage."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from misotts.config import MASKED, NO_SLOT
from misotts.order import Order

_streams = itertools.count(1)


@dataclass(eq=False)
class Utterance:
    """An order, and how much of it has been computed: the other fields are set by the scheduler and the core."""

    order: Order
    stream: int = field(default_factory=lambda: next(_streams))
    """Number of the utterance's stream; a process uses no number twice."""
    slot: int = NO_SLOT
    """Place in the batch, and slot of the later stages' state; held from admission until the last chunk is
    acknowledged."""
    admission: int = 0
    """Number of the admission that gave it its slot. These numbers grow; those of streams do not, since a listener is
    admitted before batch work that came first."""
    session_turns: int = 0
    """Turns of its conversation that its prompt contains."""
    submitted_at: float = 0.0
    admitted_at: float = 0.0
    """Time of the plan that gave it its slot, for the first time."""
    sampling_at: float = 0.0
    """Time of the plan of the step that samples its first frame: the earlier ones have computed the prompt."""
    first_frame_at: float = 0.0
    lead_s: float | None = None
    """Bound of its lead over playback; None: it has none, see `batch`."""
    prefix_keys: list[bytes] = field(default_factory=list)
    """Keys of the prompt's full blocks: see `block_keys`."""
    blocks: list[int] = field(default_factory=list)
    cached: int = 0
    """Number of positions with keys and values in `blocks`."""
    sampled: int = 0
    """Number of frames sampled, including those with codes still on the device."""
    frames: list[npt.NDArray[np.int32]] = field(default_factory=list)
    """Codes of the frames that have been read back, int32 [codebooks] each."""

    @property
    def batch(self) -> bool:
        """True if its lead has no bound: it is batch work, and listeners come first; see `misotts.generate.flow`."""
        return self.lead_s is None

    @property
    def known(self) -> int:
        """Number of positions with known input: the prompt, then the sampled frames."""
        return len(self.order.frames) + self.sampled

    def rows(self, start: int, end: int) -> npt.NDArray[np.int32]:
        """Return the rows int32 [positions, codebooks + 1] from position `start` to `end`: the prompt, and then the
        frames that have been read back, as a prompt has them."""
        prompt = self.order.frames
        rows = prompt[start:end]
        spoken = self.frames[max(start - len(prompt), 0) : max(end - len(prompt), 0)]
        if not spoken:
            return rows
        frames = np.full((len(spoken), rows.shape[1]), MASKED, np.int32)
        frames[:, :-1] = spoken
        return np.concatenate([rows, frames])

    @property
    def generating(self) -> bool:
        """True if the last sampled frame is the only position that is not cached."""
        return self.sampled > 0 and self.cached == self.known - 1

    @property
    def most_positions(self) -> int:
        """Number of positions that the cache must be able to hold: the last frame is never fed back."""
        return len(self.order.frames) + self.order.max_frames - 1
