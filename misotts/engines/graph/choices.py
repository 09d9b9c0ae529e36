"""How the fused kernels are built and launched, where only a measurement on a GPU can decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Products = Literal["tiles", "wide", "library"]


@dataclass(frozen=True)
class Choices:
    """The defaults are what the server uses; `make gpu-suite` times the others beside them (section `kernels`)."""

    pdl: bool = False
    """Programmatic dependent launch: a kernel is launched while the one before it ends, sends for its first weights,
    and waits for that end before it reads anything else."""
    products: Products = "tiles"
    """Products of 64 rows and more. `tiles`: of 64 x 64 up to 64 rows, cuBLAS beyond. `wide`: tiles of 128 outputs,
    with the weights as the left factor, which Hopper's `wgmma` reads from registers. `library`: cuBLAS. Quantised
    weights are never multiplied by cuBLAS."""
    gemv: bool = False
    """One row is multiplied without tensor cores, for which it would be padded to 16; a warp computes an output."""
    programs: int = 264
    """Programs of paged attention for which keys are split. 264 are two for each of an H100's 132 multiprocessors."""
    one_pass: bool = False
    """Up to `sample.ONE_PASS_RANKS` ranks are sampled by one program a row, which sorts, in place of 32 that count."""
