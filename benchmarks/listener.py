"""Receivers of a generator's chunks that stand in for the later stages."""

from __future__ import annotations

import numpy as np

from misotts.generate.loop import Generator
from misotts.generate.stream import Chunk
from misotts_client.errors import MisoError


class Listener:
    """Acknowledges every chunk at once, and keeps nothing."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def chunk(self, chunk: Chunk) -> None:
        self._generator.acknowledge(chunk.stream, chunk.index)

    def refuse(self, error: MisoError) -> None:
        raise error


class CodesListener(Listener):
    """Keeps what it hears as well."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator)
        self.codes: list[np.ndarray] = []
        """Of each chunk, int32 [frames, codebooks]."""
        self.finish = ""
        """The last chunk's; empty until it has come."""

    def chunk(self, chunk: Chunk) -> None:
        self.codes.append(chunk.codes)
        self.finish = chunk.finish
        super().chunk(chunk)
