"""The two small interfaces behind which every engine stands.

A step is one frame for every scheduled utterance:

    hidden = backbone.forward(batch)                     # [n, backbone width]
    codes, embedding = depth.forward(hidden, sampling)   # [n, codebooks], [n, backbone width]

`embedding` is the backbone's next input, so nothing has to come back to the host between two frames.
An engine that does both in one is a `FrameEngine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch


@dataclass(frozen=True)
class Limits:
    """How much the stage takes on."""

    max_streams: int = 16
    """Slots: utterances that generate at once."""
    max_waiting: int = 64
    """Utterances that may wait beside those for whom a slot is free; the next one is refused."""
    step_positions: int = 512
    """Positions of one step; what decodes leave of it goes to prefill, and in any case a quarter of it or one block."""

    def largest_step(self, block_size: int) -> int:
        """The most positions that a step can have."""
        speaking = self.max_streams - 1  # beside one that reads its prompt
        return max(self.step_positions, self.max_streams, speaking + max(self.step_positions // 4, block_size))


@dataclass(frozen=True)
class Batch:
    """New positions of n sequences, packed end to end, and where their keys and values lie."""

    inputs: torch.Tensor
    """Input embeddings [positions, backbone width], on the engine's device and in its dtype."""
    lengths: np.ndarray
    """int32 [n]: new positions of each sequence; `inputs` has their sum."""
    starts: np.ndarray
    """int32 [n]: positions of each sequence that are in the cache already."""
    blocks: np.ndarray
    """int32 [n, columns]: each sequence's block table, oldest first; unused entries are 0, the scratch block."""


@dataclass(frozen=True)
class Sampling:
    """How to draw the codes of n frames. All tensors are on the engine's device."""

    temperature: torch.Tensor
    """float32 [n], above 0."""
    top_k: torch.Tensor
    """int64 [n], from 1 (greedy) to the noise's last dimension."""
    noise: torch.Tensor
    """float32 [n, codebooks, ranks]: Gumbel noise of each codebook's likeliest codes, likeliest first."""


class Backbone(Protocol):
    """Reads packed embeddings, keeps keys and values in a pool of blocks."""

    block_size: int
    """Positions in a block."""
    num_blocks: int
    """Blocks in the pool, block 0 among them, which is scratch and never handed out."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the hidden state of each sequence's last new position [n, width], after the final norm."""
        ...


class Depth(Protocol):
    """Turns a hidden state into one frame."""

    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes [n, codebooks] int64 and the sum of their embeddings [n, backbone width]."""
        ...


@dataclass(frozen=True)
class Frames:
    """n utterances, each of which draws a frame at its next position."""

    slots: np.ndarray
    """Row of `next_input` with the position's input; none twice."""
    starts: np.ndarray
    """Positions that are in the cache already."""
    blocks: np.ndarray
    """int32 [n, columns]: block tables; unused entries are 0."""
    numbers: np.ndarray
    """Frames drawn before this one."""
    seeds: np.ndarray
    temperature: np.ndarray
    """float32, above 0."""
    top_k: np.ndarray
    """From 1 (greedy) to the number of audio codes."""


@runtime_checkable
class FrameEngine(Protocol):
    """Backbone and depth decoder in one, for the positions that draw a frame; `backbone` reads all others."""

    next_input: torch.Tensor
    """What each slot's next position takes in [slots or more, backbone width]; the engine puts the frame's embedding
    there."""

    @property
    def backbone(self) -> Backbone: ...

    def draw(self, frames: Frames) -> torch.Tensor:
        """Start on one frame each → codes int64 [n, codebooks] on the device, which the next call overwrites."""
        ...
