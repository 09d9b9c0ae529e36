"""What a step needs of every seated utterance, one row per slot: so a step gathers rows instead of building them."""

from __future__ import annotations

import numpy as np
import torch

from misotts.engines.embedding import Embedding
from misotts.engines.interface import Frames, Sampling
from misotts.engines.sampling import gumbel_noise
from misotts.engines.transfer import to_device
from misotts.generate.utterance import Utterance


class SlotTable:
    """Next inputs on the device; block tables and sampling parameters on the host."""

    def __init__(
        self,
        slots: int,
        columns: int,
        codebooks: int,
        embedding: Embedding,
        next_input: torch.Tensor | None = None,
    ) -> None:
        """`next_input`: that of an engine that has its own."""
        own = embedding.text_table.new_zeros(slots, embedding.width) if next_input is None else next_input
        self.next_input = own
        """Embedding of the frame drawn last [slots, backbone width]."""
        self.tables = np.zeros((slots, columns), np.int32)
        """Block tables; unused entries are 0, the scratch block."""
        self._blocks = np.zeros(slots, np.int64)
        self._codebooks = codebooks
        self._seed = np.zeros(slots, np.int64)
        self._temperature = np.ones(slots, np.float32)
        self._top_k = np.ones(slots, np.int64)

    def set(self, utterance: Utterance) -> None:
        """Take over an utterance that is being prefilled."""
        slot, blocks = utterance.slot, utterance.blocks
        self.tables[slot] = 0
        self.tables[slot, : len(blocks)] = blocks
        self._blocks[slot] = len(blocks)
        order = utterance.order
        greedy = order.temperature == 0
        self._seed[slot] = order.seed
        self._temperature[slot] = 1.0 if greedy else order.temperature
        self._top_k[slot] = 1 if greedy else order.top_k

    def extend(self, utterance: Utterance) -> None:
        """Take note of the blocks by which a decoding utterance has grown."""
        slot, known = utterance.slot, self._blocks[utterance.slot]
        if len(utterance.blocks) != known:
            self.tables[slot, known : len(utterance.blocks)] = utterance.blocks[known:]
            self._blocks[slot] = len(utterance.blocks)

    def frames(self, slots: list[int], starts: list[int], numbers: list[int]) -> Frames:
        """What `FrameEngine.draw` takes."""
        return Frames(
            slots=np.array(slots),
            starts=np.array(starts),
            blocks=self.tables[slots],
            numbers=np.array(numbers),
            seeds=self._seed[slots],
            temperature=self._temperature[slots],
            top_k=self._top_k[slots],
        )

    def sampling(self, slots: list[int], frames: list[int]) -> Sampling:
        """How to draw frame number `frames` for each of `slots`."""
        device = self.next_input.device

        def put(values: np.ndarray) -> torch.Tensor:
            return to_device(torch.from_numpy(values), device)

        top_k = self._top_k[slots]
        noise = gumbel_noise(put(self._seed[slots]), put(np.array(frames)), self._codebooks, int(top_k.max()))
        return Sampling(put(self._temperature[slots]), put(top_k), noise)
