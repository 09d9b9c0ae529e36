"""Streaming resampling between 24 kHz and 44.1 kHz with a known, small, constant delay.

A library resampler's streams hold back an amount that depends on its internal blocks; the watermark must know to the
sample where it stands. The ratio is 147 / 80, so every block of 80 samples becomes 147 by one small matrix: a
windowed-sinc filter (Kaiser) written out for each output phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_KAISER_BETA = 8.0  # 80 dB stop band
_HALF_WIDTH = 32  # samples at 24 kHz to each side: 1.3 ms


@dataclass(frozen=True)
class Resampler:
    """A rational resampler: `in_block` samples in, `out_block` out."""

    in_block: int
    out_block: int

    @property
    def reach(self) -> int:
        """Input samples that an output needs to each side."""
        return -(-_HALF_WIDTH * max(self.in_block, 80) // 80)

    @cached_property
    def matrix(self) -> np.ndarray:
        """float32 [in_block + 2 * reach, out_block]."""
        inputs = np.arange(-self.reach, self.in_block + self.reach)[:, None]
        outputs = np.arange(self.out_block)[None] * self.in_block / self.out_block
        distance = outputs - inputs
        cutoff = min(1.0, self.out_block / self.in_block)
        inside = np.clip(1 - (distance / self.reach) ** 2, 0, None)
        window = np.i0(_KAISER_BETA * np.sqrt(inside)) / np.i0(_KAISER_BETA) * (np.abs(distance) <= self.reach)
        return (cutoff * np.sinc(cutoff * distance) * window).astype(np.float32)

    def stream(self) -> ResampleStream:
        return ResampleStream(self)


class ResampleStream:
    """One stream's state. Output sample n stands at input time n * in_block / out_block: nothing is shifted."""

    def __init__(self, resampler: Resampler) -> None:
        self._resampler = resampler
        self._buffer = np.zeros(resampler.reach, np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take float32 [n]; return what has become known, a multiple of `out_block` samples."""
        step, reach = self._resampler.in_block, self._resampler.reach
        self._buffer = np.concatenate([self._buffer, samples])
        blocks = (len(self._buffer) - 2 * reach) // step
        if blocks < 1:
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(self._buffer, step + 2 * reach)[::step][:blocks]
        # A copy: of rows that overlap, numpy makes the product without BLAS, 30 times slower.
        out = np.ascontiguousarray(windows) @ self._resampler.matrix
        self._buffer = self._buffer[blocks * step :]
        return out.reshape(-1)


UP = Resampler(in_block=80, out_block=147)
DOWN = Resampler(in_block=147, out_block=80)
