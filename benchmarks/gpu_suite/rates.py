"""Section `rates`: what this device can copy and multiply, on random data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from benchmarks.costs.floors import Rates
from benchmarks.costs.timing import measure
from benchmarks.gpu_suite.section import Section


def rates(section: Section) -> None:
    """Sends the value `rates`, which the later sections' floors are made of, and table rows of each rate."""
    found = Rates(copy=_copy(section), matrix={})
    for name, product in _products(section.sizes.matrix, section.device).items():
        section.hurry()
        try:
            per_s = _per_second(section, product(), 2 * section.sizes.matrix**3)
        except (RuntimeError, AttributeError, NotImplementedError) as error:  # FP8 needs a GPU that has it
            section.row("rates", rate=name, skipped=str(error).splitlines()[0])
            continue
        found.matrix[name] = per_s
        section.row("rates", rate=f"{name} matrix product", TFLOP_per_s=round(per_s / 1e12, 3))
        section.value("rates", asdict(found))


def _copy(section: Section) -> float:
    """Bytes per second, read and written ones both counted."""
    source = torch.randint(256, (section.sizes.copy_bytes,), dtype=torch.uint8, device=section.device)
    target = torch.empty_like(source)
    per_s = _per_second(section, partial(target.copy_, source), 2 * source.nbytes)
    section.row("rates", rate="copy, read + written", TB_per_s=round(per_s / 1e12, 4))
    reads = _per_second(section, source.view(torch.int32).amax, source.nbytes)
    section.row("rates", rate="read (largest element)", TB_per_s=round(reads / 1e12, 4))
    return per_s


def _per_second(section: Section, action: Callable[[], Any], amount: float) -> float:
    time = measure(action, section.device, section.sizes.repeats, section.sizes.seconds_per_row, calls=3)
    return amount / time.ms * 1000


def _products(size: int, device: str) -> dict[str, Callable[[], Callable[[], torch.Tensor]]]:
    """By dtype: what makes two random matrices and returns their product."""

    def plain(dtype: torch.dtype, tf32: bool = False) -> Callable[[], torch.Tensor]:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

        def product() -> torch.Tensor:
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = tf32
            try:
                return a @ b
            finally:
                torch.backends.cuda.matmul.allow_tf32 = before

        return product

    def fp8() -> Callable[[], torch.Tensor]:
        a, b = (torch.randn(size, size, device=device).to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.ones((), device=device)
        # Columns of the second matrix must lie end to end.
        return lambda: torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)

    return {
        "bfloat16": partial(plain, torch.bfloat16),
        "float32": partial(plain, torch.float32),
        "float32 as TF32": partial(plain, torch.float32, True),
        "float8_e4m3fn": fp8,
    }
