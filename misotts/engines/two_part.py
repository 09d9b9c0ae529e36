"""An engine of two parts: a backbone, and a depth decoder that samples the frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from misotts.config import ModelConfig
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Backbone, Batch, Depth, Sampling, Step
from misotts.engines.sampling import gumbel_noise
from misotts.engines.transfer import to_device


class TwoPart:
    """See `Engine`."""

    def __init__(
        self, config: ModelConfig, embedding: Embedding, backbone: Backbone, depth: Depth, max_streams: int
    ) -> None:
        """`max_streams`: number of slots."""
        self.block_size, self.num_blocks = backbone.block_size, backbone.num_blocks
        self._codebooks = config.audio_num_codebooks
        self._embedding, self._backbone, self._depth = embedding, backbone, depth
        self.next_input = embedding.text_table.new_zeros(max_streams, embedding.width)
        """Embedding of each slot's last frame [slots, backbone width]."""

    @torch.inference_mode()
    def step(self, step: Step) -> torch.Tensor:
        """See `Engine.step`."""
        device = self.next_input.device
        hidden = self._backbone.forward(self._batch(step))
        rows = np.flatnonzero(step.samples)
        if not len(rows):
            return torch.empty(0, self._codebooks, dtype=torch.int64)
        if len(rows) < len(step.slots):
            hidden = hidden[to_device(rows, device)]
        codes, following = self._depth.forward(hidden, sampling_of(step, rows, self._codebooks, device))
        self.next_input[to_device(step.slots[rows], device)] = following
        return codes

    def _batch(self, step: Step) -> Batch:
        inputs = []
        if step.generating:
            inputs.append(self.next_input[to_device(step.slots[: step.generating], self.next_input.device)])
        if len(step.rows):
            inputs.append(self._embedding.prompt(torch.from_numpy(step.rows)))
        return Batch(inputs[0] if len(inputs) == 1 else torch.cat(inputs), step.lengths, step.starts, step.blocks)


def sampling_of(step: Step, rows: npt.NDArray[np.int64], codebooks: int, device: torch.device) -> Sampling:
    """Return the sampling parameters of the sequences `rows` of a step."""
    seeds, numbers, top_k = to_device(step.seeds[rows], device), to_device(step.numbers[rows], device), step.top_k[rows]
    ranks = int(top_k.max())
    if ranks > 1:
        noise = gumbel_noise(seeds, numbers, codebooks, ranks)
    else:  # noise changes nothing where each codebook has one candidate
        noise = torch.zeros(len(rows), codebooks, 1, device=device)
    return Sampling(to_device(step.temperature[rows], device), to_device(top_k, device), noise)
