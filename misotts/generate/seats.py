"""What a step needs of every seated utterance, one row per seat: so a step gathers rows instead of building them."""

from __future__ import annotations

import numpy as np
import torch

from misotts.engines.embedding import Embedding
from misotts.engines.interface import Frames, Sampling
from misotts.engines.sampling import gumbel_noise
from misotts.engines.transfer import to_device
from misotts.generate.utterance import Utterance


class SeatState:
    """Next inputs on the device; block tables and sampling parameters on the host."""

    def __init__(
        self,
        seats: int,
        columns: int,
        codebooks: int,
        embedding: Embedding,
        next_input: torch.Tensor | None = None,
    ) -> None:
        """`next_input`: that of an engine that has its own."""
        own = embedding.text_table.new_zeros(seats, embedding.width) if next_input is None else next_input
        self.next_input = own
        """Embedding of the frame drawn last [seats, backbone width]."""
        self.tables = np.zeros((seats, columns), np.int32)
        """Block tables; unused entries are 0, the scratch block."""
        self._blocks = np.zeros(seats, np.int64)
        self._codebooks = codebooks
        self._seed = np.zeros(seats, np.int64)
        self._temperature = np.ones(seats, np.float32)
        self._top_k = np.ones(seats, np.int64)

    def set(self, utterance: Utterance) -> None:
        """Take over an utterance that is being prefilled."""
        seat, blocks = utterance.seat, utterance.blocks
        self.tables[seat] = 0
        self.tables[seat, : len(blocks)] = blocks
        self._blocks[seat] = len(blocks)
        greedy = utterance.temperature == 0
        self._seed[seat] = utterance.seed
        self._temperature[seat] = 1.0 if greedy else utterance.temperature
        self._top_k[seat] = 1 if greedy else utterance.top_k

    def extend(self, utterance: Utterance) -> None:
        """Take note of the blocks by which a decoding utterance has grown."""
        seat, known = utterance.seat, self._blocks[utterance.seat]
        if len(utterance.blocks) != known:
            self.tables[seat, known : len(utterance.blocks)] = utterance.blocks[known:]
            self._blocks[seat] = len(utterance.blocks)

    def frames(self, seats: list[int], starts: list[int], numbers: list[int]) -> Frames:
        """What `FrameEngine.draw` takes."""
        return Frames(
            seats=np.array(seats),
            starts=np.array(starts),
            blocks=self.tables[seats],
            numbers=np.array(numbers),
            seeds=self._seed[seats],
            temperature=self._temperature[seats],
            top_k=self._top_k[seats],
        )

    def sampling(self, seats: list[int], frames: list[int]) -> Sampling:
        """How to draw frame number `frames` for each of `seats`."""
        device = self.next_input.device

        def put(values: np.ndarray) -> torch.Tensor:
            return to_device(torch.from_numpy(values), device)

        top_k = self._top_k[seats]
        noise = gumbel_noise(put(self._seed[seats]), put(np.array(frames)), self._codebooks, int(top_k.max()))
        return Sampling(put(self._temperature[seats]), put(top_k), noise)
