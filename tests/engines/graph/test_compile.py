"""Every kernel of a full-size frame, compiled and assembled by Triton for an H100, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

pytest.importorskip("triton")

LARGEST_SHARED = 227 * 1024
"""Most bytes of shared memory of a program on an H100."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("kernels")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "build", "kernels", "--gpu", "9.0", "--json"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def test_every_kernel_is_compiled(compiled: list[dict[str, Any]]) -> None:
    here = Path(__file__).resolve().parents[3] / "misotts/engines/graph/kernels"
    written = {
        line.removeprefix("def ").split("_kernel(")[0]
        for file in here.glob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("def ") and "_kernel(" in line
    }
    assert {kernel["kernel"] for kernel in compiled} == written
    assert len(compiled) > 40


def test_no_kernel_spills_registers_or_exceeds_shared_memory(compiled: list[dict[str, Any]]) -> None:
    for kernel in compiled:
        assert kernel["local"] == 0, f"spills: {kernel}"
        assert kernel["shared"] <= LARGEST_SHARED, kernel


def test_kernels_with_products_load_16_bytes_and_use_tensor_cores(compiled: list[dict[str, Any]]) -> None:
    for kernel in compiled:
        if kernel["kernel"] in ("linear", "paged_attention", "depth_attention"):
            assert kernel["tensor_cores"], kernel
        if kernel["kernel"] in ("linear", "gemv", "paged_attention", "depth_attention"):
            assert kernel["loads"] == 16, kernel


def test_choices_change_the_kernels(compiled: list[dict[str, Any]]) -> None:
    """Programmatic dependent launch is in every kernel or in none, and wide tiles use Hopper's own instruction."""
    asked = [kernel for kernel in compiled if kernel["launch"].startswith("pdl")]
    assert [kernel for kernel in compiled if kernel["pdl"]] == asked
    assert len({kernel["kernel"] for kernel in asked}) == len({kernel["kernel"] for kernel in compiled})
    assert all(kernel["wgmma"] for kernel in compiled if kernel["launch"].startswith("pdl, wide"))
