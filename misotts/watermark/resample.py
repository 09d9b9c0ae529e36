"""Streaming resampling between 24 kHz and SilentCipher's rate with a known, small, constant delay.

The stream of a library resampler holds back an amount that depends on its internal blocks, but the watermark must know
its place to the sample. The rates have the ratio of two integers (24 to 44.1 kHz: 80 to 147), so one small matrix turns
every block of one size into a block of the other: a windowed-sinc filter (Kaiser) written out for each output phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np
import numpy.typing as npt

_KAISER_BETA = 8.0  # 80 dB stop band
_HALF_WIDTH = 32  # samples of the slower rate to each side: 1.3 ms at 24 kHz

Samples = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
"""Counts of samples; an int will do."""


@dataclass(frozen=True)
class Resampler:
    """Converts `rate_in` to `rate_out` without a shift: output sample n is at input time n * rate_in / rate_out."""

    rate_in: int
    rate_out: int

    @cached_property
    def in_block(self) -> int:
        return self.rate_in // gcd(self.rate_in, self.rate_out)

    @cached_property
    def out_block(self) -> int:
        return self.rate_out // gcd(self.rate_in, self.rate_out)

    @cached_property
    def reach(self) -> int:
        """Number of input samples that an output depends on to each side."""
        if self.rate_in == self.rate_out:
            return 0
        return -(-_HALF_WIDTH * max(self.rate_in, self.rate_out) // self.rate_out)

    @cached_property
    def matrix(self) -> Samples:
        """The filter, float32 [in_block + 2 * reach, out_block]."""
        if not self.reach:
            return np.ones((1, 1), np.float32)
        inputs = np.arange(-self.reach, self.in_block + self.reach)[:, None]
        outputs = np.arange(self.out_block)[None] * self.in_block / self.out_block
        distance = outputs - inputs
        cutoff = min(1.0, self.out_block / self.in_block)
        inside = np.clip(1 - (distance / self.reach) ** 2, 0, None)
        window = np.i0(_KAISER_BETA * np.sqrt(inside)) / np.i0(_KAISER_BETA) * (np.abs(distance) <= self.reach)
        return (cutoff * np.sinc(cutoff * distance) * window).astype(np.float32)

    @cached_property
    def halves(self) -> list[tuple[slice, slice, Samples]]:
        """The matrix in two halves of its outputs, without the inputs that a half does not read: inputs, outputs and
        matrix of each. A product with both takes four fifths of the time of one with all zeros."""
        middle = -(-self.out_block // 2)
        parts = []
        for outputs in (slice(0, middle), slice(middle, self.out_block)):
            if outputs.start == outputs.stop:  # a single output has no second half
                continue
            read = np.flatnonzero(self.matrix[:, outputs].any(axis=1))
            inputs = slice(int(read[0]), int(read[-1]) + 1)
            parts.append((inputs, outputs, np.ascontiguousarray(self.matrix[inputs, outputs])))
        return parts

    def known(self, samples: Counts) -> Counts:
        """Return the number of output samples that the first `samples` of a stream determine."""
        return np.maximum((samples - self.reach) // self.in_block, 0) * self.out_block

    def touched(self, at: Counts) -> Counts:
        """Return the first output sample that input sample `at` can change."""
        return (at - self.reach) // self.in_block * self.out_block

    def start(self, samples: Samples, count: int) -> tuple[Samples, int]:
        """Resample the beginning of float32 [n], which begins `reach` samples before the first output and has silence
        after its end: return the first `count` outputs, a multiple of `out_block`, and the number of samples that no
        later output depends on."""
        blocks, rest = divmod(count, self.out_block)
        assert not rest
        missing = blocks * self.in_block + 2 * self.reach - len(samples)
        if missing > 0:
            samples = np.concatenate([samples, np.zeros(missing, np.float32)])
        return _run_blocks(self, samples, blocks), blocks * self.in_block


class ResampleStream:
    """The state of one stream."""

    def __init__(self, resampler: Resampler) -> None:
        self._resampler = resampler
        self._buffer = np.zeros(resampler.reach, np.float32)

    def push(self, samples: Samples) -> Samples:
        """Take float32 [n] and return the output that it completes, a multiple of `out_block` samples."""
        self._buffer = np.concatenate([self._buffer, samples])
        blocks = max((len(self._buffer) - 2 * self._resampler.reach) // self._resampler.in_block, 0)
        out = _run_blocks(self._resampler, self._buffer, blocks)
        self._buffer = self._buffer[blocks * self._resampler.in_block :]
        return out

    def rest(self) -> Samples:
        """Return the output up to where it is zero, if silence came next; the state stays."""
        blocks = len(self._buffer) // self._resampler.in_block + 1
        return self._resampler.start(self._buffer, blocks * self._resampler.out_block)[0]


def _run_blocks(resampler: Resampler, padded: Samples, blocks: int) -> Samples:
    """Resample `blocks` blocks of input, contiguous and with `reach` samples to each side → as many blocks, float32
    [samples]."""
    if not resampler.reach:
        return padded[: blocks * resampler.in_block]
    assert padded.dtype == np.float32
    shape = blocks, resampler.in_block + 2 * resampler.reach
    overlapping: Samples = np.ndarray(shape, np.float32, padded, strides=(resampler.in_block * 4, 4))
    windows = overlapping.copy()  # because numpy multiplies overlapping rows without BLAS, 30 times slower
    out = np.empty((blocks, resampler.out_block), np.float32)
    for inputs, outputs, matrix in resampler.halves:
        np.matmul(windows[:, inputs], matrix, out=out[:, outputs])
    return out.reshape(-1)
