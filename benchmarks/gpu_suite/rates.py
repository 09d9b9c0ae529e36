"""Section `rates`: the rates at which this device copies and multiplies random data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch

from benchmarks.costs.floors import Rates
from benchmarks.costs.section import Section
from benchmarks.costs.timing import measure

PRODUCTS = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float32 as TF32": torch.float32,
    "float8_e4m3fn": torch.float8_e4m3fn,
}


def rates(section: Section) -> None:
    """Sends the value `rates`, which gives later sections their floors, and a table with a row for each rate."""
    found = Rates(copy=_copy(section), matrix={})
    size = section.sizes.matrix
    for name, dtype in PRODUCTS.items():
        section.hurry()
        a, b = (torch.randn(size, size, device=section.device).to(dtype) for _ in range(2))
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = name.endswith("TF32")
        try:
            found.matrix[name] = _per_second(section, partial(_product, a, b), 2 * size**3)
        except (RuntimeError, AttributeError, NotImplementedError) as error:  # FP8 needs a GPU that has it
            section.row("rates", rate=name, skipped=str(error).splitlines()[0])
            continue
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        section.row("rates", rate=f"{name} matrix product", TFLOP_per_s=round(found.matrix[name] / 1e12, 3))
        section.value("rates", asdict(found))


def _copy(section: Section) -> float:
    """Return bytes per second; read and written bytes both count."""
    source = torch.randint(256, (section.sizes.copy_bytes,), dtype=torch.uint8, device=section.device)
    target = torch.empty_like(source)
    per_s = _per_second(section, partial(target.copy_, source), 2 * source.nbytes)
    section.row("rates", rate="copy, read + written", TB_per_s=round(per_s / 1e12, 4))
    reads = _per_second(section, source.view(torch.int32).amax, source.nbytes)
    section.row("rates", rate="read (largest element)", TB_per_s=round(reads / 1e12, 4))
    return per_s


def _per_second(section: Section, action: Callable[[], object], amount: float) -> float:
    time = measure(action, section.device, section.sizes.repeats, section.sizes.seconds_per_row, calls=3)
    return amount / time.ms * 1000


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.dtype != torch.float8_e4m3fn:
        return a @ b
    one = torch.ones((), device=a.device)
    # The columns of the second matrix must be contiguous.
    return torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
