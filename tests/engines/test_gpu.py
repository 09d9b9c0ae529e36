"""A real GPU computes the CPU's results. `benchmarks.gpu_suite` measures its speed."""

import math
from contextlib import suppress
from typing import Any

import pytest
import torch

from benchmarks.costs.codec import decode, watermark
from benchmarks.costs.section import OutOfTimeError, Section
from benchmarks.costs.sizes import SMALL
from benchmarks.gpu_suite.frames import frames


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("compare", [frames, decode, watermark])
def test_a_gpu_computes_what_the_cpu_computes(compare: Any) -> None:
    checks: dict[str, dict[str, Any]] = {}

    def send(kind: str, name: str, value: Any) -> None:
        if kind == "check":
            checks[name] = value
        elif kind == "row":  # the comparison is over
            raise OutOfTimeError

    with suppress(OutOfTimeError):
        compare(Section("cuda", SMALL, None, math.inf, send))
    assert checks
    assert [name for name, check in checks.items() if not check["ok"]] == []
