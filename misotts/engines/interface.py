"""The interface of every engine, and the two smaller ones of an engine that has two parts.

A step is one pass: at most one new frame for every running utterance, and prefill chunks of prompts.

    codes = engine.step(step)                            # [samples, codebooks]

`misotts.engines.two_part.TwoPart` makes an engine of a backbone and a depth decoder:

    hidden = backbone.forward(batch)                     # [n, backbone width]
    codes, embedding = depth.forward(hidden, sampling)   # [samples, codebooks], [samples, backbone width]

`embedding` is the backbone's next input, so nothing has to come back to the host between two frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True)
class Limits:
    """Bounds of the generate stage."""

    max_streams: int = 16
    """Slots: utterances that run at once."""
    max_waiting: int = 64
    """Utterances that may wait, not counting as many as there are free slots; the next one is refused."""
    step_positions: int = 512
    """Positions of one step. Prefill gets what generating utterances leave, and at least a quarter or one block."""

    def largest_step(self, block_size: int) -> int:
        """Return the most positions that a step can have."""
        generating = self.max_streams - 1  # the remaining utterance is prefilling
        return max(self.step_positions, self.max_streams, generating + max(self.step_positions // 4, block_size))


@dataclass(frozen=True)
class Step:
    """The shares of n sequences in one pass; every array is on the host.

    The first `generating` sequences feed back their last frame, one position each. The others bring prefill chunks.
    """

    slots: npt.NDArray[np.int64]
    """[n], none twice: the engine keeps the next input of each slot's sequence."""
    starts: npt.NDArray[np.int32]
    """[n]: positions of each sequence that are in the cache already."""
    lengths: npt.NDArray[np.int32]
    """[n]: new positions of each sequence."""
    blocks: npt.NDArray[np.int32]
    """[n, columns]: each sequence's block table, oldest first; unused entries are 0, the scratch block."""
    generating: int
    rows: npt.NDArray[np.int64]
    """[positions, codebooks + 1]: the prefill chunks, end to end; unused columns hold `MASKED`."""
    samples: npt.NDArray[np.bool_]
    """[n]: True where a frame is sampled at the sequence's last new position."""
    numbers: npt.NDArray[np.int64]
    """[n]: frames sampled before this one."""
    seeds: npt.NDArray[np.int64]
    """[n]."""
    temperature: npt.NDArray[np.float32]
    """[n], above 0."""
    top_k: npt.NDArray[np.int64]
    """[n], from 1 (greedy) to the number of audio codes."""


class Engine(Protocol):
    """Computes steps on a device; keeps keys and values in a pool of blocks, and the next input of every slot."""

    block_size: int
    """Positions in a block."""
    num_blocks: int
    """Blocks in the pool, block 0 among them, which is scratch and never handed out."""

    def step(self, step: Step) -> torch.Tensor:
        """Start on a step, without waiting for a GPU, and return the codes, int64 [samples, codebooks], of the
        sequences that sample, in the step's order. They may still be computed on the device, and the next call may
        overwrite them."""
        ...


@dataclass(frozen=True)
class Batch:
    """New positions of n sequences, packed end to end, and where their keys and values lie."""

    inputs: torch.Tensor
    """Input embeddings [positions, backbone width], on the engine's device and in its dtype."""
    lengths: npt.NDArray[np.int32]
    """[n]: new positions of each sequence; `inputs` has their sum."""
    starts: npt.NDArray[np.int32]
    """[n]: positions of each sequence that are in the cache already."""
    blocks: npt.NDArray[np.int32]
    """[n, columns]: each sequence's block table, oldest first; unused entries are 0, the scratch block."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of n frames. All tensors are on the engine's device."""

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
