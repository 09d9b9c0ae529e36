"""Stages that compute at no cost: what is left is the cost of streams and messages on the host.

Each class is the server's own stage; only what computes is replaced.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.host_cost import STEP_MS
from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.engines.interface import Limits, Step
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.serve.stage import decode, generate, watermark
from misotts.slots import Piece
from misotts.watermark import watermarker
from misotts.watermark.silentcipher import SilentCipherConfig
from misotts.watermark.watermarker import hold_back


class FreeEngine:
    """An engine whose steps cost the host nothing. Its utterances never end before their length."""

    block_size = BLOCK_SIZE

    def __init__(self, config: ModelConfig, limits: Limits) -> None:
        self.num_blocks = 1 + limits.max_streams * -(-config.max_seq_len // BLOCK_SIZE)
        self._step_s = float(os.environ.get(STEP_MS, "0")) / 1000
        self._codes = torch.ones(limits.max_streams, config.audio_num_codebooks, dtype=torch.int64)

    def step(self, step: Step) -> torch.Tensor:
        time.sleep(self._step_s)
        return self._codes[: int(step.samples.sum())]


class FreeDecoder:
    """Returns a constant of the right length: silence would make the gateway search all of it for a first sound."""

    def __init__(self, *_: Any) -> None: ...

    def prepare(self) -> None: ...

    def decode_each(self, pieces: Sequence[Piece[np.int32]]) -> Iterator[tuple[int, np.ndarray]]:
        for number, piece in enumerate(pieces):
            yield number, np.full(len(piece.data) * FRAME_SAMPLES, 0.1, np.float32)


class FreeWatermarker:
    """Returns the audio as it is, as many frames late as the real one."""

    def __init__(self, folder: Path, slots: int, *_: Any) -> None:
        self._hold_back = hold_back(folder)
        self._held = [np.zeros(0, np.float32)] * slots
        self._arrived = [0] * slots

    def mark_each(self, pieces: Sequence[Piece[np.float32]]) -> Iterator[tuple[int, np.ndarray]]:
        for number, piece in enumerate(pieces):
            audio = piece.data if piece.first else np.concatenate([self._held[piece.slot], piece.data])
            arrived = (0 if piece.first else self._arrived[piece.slot]) + len(piece.data) // FRAME_SAMPLES
            self._arrived[piece.slot] = arrived
            held = 0 if piece.last else arrived - self._hold_back.gone(arrived)
            ready = len(audio) - held * FRAME_SAMPLES
            self._held[piece.slot] = audio[ready:]
            yield number, audio[:ready]


class GenerateStage(generate.GenerateStage):
    def load(self) -> None:
        def load_engine(_: Path, config: ModelConfig, limits: Limits, *__: Any) -> FreeEngine:
            return FreeEngine(config, limits)

        vars(generate).update(load_engine=load_engine)
        super().load()


class DecodeStage(decode.DecodeStage):
    def load(self) -> None:
        vars(decode).update(load_mimi=lambda *_: None, Decoder=FreeDecoder)
        super().load()


class WatermarkStage(watermark.WatermarkStage):
    def load(self) -> None:
        vars(watermark).update(Watermarker=FreeWatermarker)
        super().load()


class FreeNetwork:
    """Returns a faint mark at once: the network runs on the GPU, all else of the watermark on the host."""

    def __init__(self, folder: Path, *_: Any) -> None:
        self.config = SilentCipherConfig.load(folder)

    def reset(self, slots: list[int]) -> None: ...

    def marks(self, slots: list[int], audio: np.ndarray, wanted: np.ndarray, keep: bool = True) -> np.ndarray:
        return np.full(audio.shape, 1e-4, np.float32)


class NetworkStage(watermark.WatermarkStage):
    def load(self) -> None:
        vars(watermarker).update(MarkNetwork=FreeNetwork)
        super().load()
