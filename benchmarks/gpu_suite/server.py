"""Section `server`: the real server, Triton included, at the 8B shape, as its callers hear it.

Where Triton is not installed it is unpacked from the archive that `benchmarks.gpu_suite.carried` made elsewhere. The
weights are random numbers, made on the device, in a model folder in memory; the server loads them like any others.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.costs.engines import RandomWeights
from benchmarks.costs.section import Section, SkippedError
from benchmarks.gpu_suite.carried import ARCHIVE, unpack
from benchmarks.load.measure import Target, measure
from benchmarks.load.plan import Load
from benchmarks.sweep.points import LATENCY, THROUGHPUT
from demo.model import make_mimi_weights, make_silentcipher, make_tokenizer
from misotts.model.weight_files import save_weights
from misotts.serve.local import running_server

MPS = "nvidia-cuda-mps-control"
IN_MEMORY = Path("/dev/shm")
MAX_VOCABULARY = 1024
"""Size of the tokenizer: training one of 128,000 takes minutes."""
START_S = 180.0
"""Longest time until the server is ready."""
SLOWEST_MS_PER_CHAR = 70.0


def server(section: Section, mps: bool = False) -> None:
    """Sends the time until the server is ready, and the tables `callers` (closed loops), `calls` (open loops) and
    `operating points`.

    Args:
        mps: the stages share the GPU by NVIDIA's Multi-Process Service instead of taking turns.

    Raises:
        SkippedError: there is no tritonserver here, neither installed nor carried along, or no MPS.
    """
    sizes = section.sizes
    with (
        TemporaryDirectory() as environment,
        TemporaryDirectory(dir=_roomy(section)) as folder,
        _running_mps() if mps else nullcontext(),
    ):
        python = _python_with_triton(Path(environment))
        began = time.monotonic()
        model = make_model(section, Path(folder) / "model")
        section.value("model_made_s", round(time.monotonic() - began, 1))
        most = max(*sizes.server_streams, 256 if section.device == "cuda" else 1)
        options = ["--backbone=graph", f"--max-streams={most}"]
        began = time.monotonic()
        with running_server(model, *options, python=python, start_s=START_S) as running:
            section.value("ready_s", round(time.monotonic() - began, 1))
            target = Target.of(running)
            for streams in sizes.server_streams:
                load = Load(sizes.server_seconds, streams=streams, max_ms_per_char=SLOWEST_MS_PER_CHAR)
                _measure(section, "callers", load, target, callers=streams)
            for rate in sizes.server_rates:
                load = Load(sizes.server_seconds, rate=rate, max_ms_per_char=SLOWEST_MS_PER_CHAR)
                _measure(section, "calls", load, target, calls_per_s=rate)
            plain = Load(
                sizes.server_seconds,
                warm_up_s=sizes.server_warm_up_s,
                max_ms_per_char=SLOWEST_MS_PER_CHAR,
                lead_ms=None,
            )
            calls_per_s, listeners = sizes.server_points
            for point in (replace(LATENCY, calls_per_s=calls_per_s), replace(THROUGHPUT, streams=listeners)):
                load = replace(plain, rate=point.rate(plain.mean_audio_s))
                found = _measure(section, "operating points", load, target, point=str(point))
                section.value(point.name, ", ".join(point.objective.misses(found)) or "holds")


def _measure(section: Section, table: str, load: Load, target: Target, **where: Any) -> dict[str, Any]:
    """Add a row, and return the overall figures; times that the load generator has spoilt are marked."""
    section.hurry()
    result = measure(load, target, lambda run: None)
    figures = result["overall"]
    row = {
        "heard": figures["heard_to_the_end"],
        "ttfa_ms_p50": figures["ttfa_ms"]["p50"],
        "ttfa_ms_p95": figures["ttfa_ms"]["p95"],
        "audible_ttfa_ms_p50": figures["audible_ttfa_ms"]["p50"],
        "audible_ttfa_ms_p95": figures["audible_ttfa_ms"]["p95"],
        "leading_silence_ms_p50": figures["leading_silence_ms"]["p50"],
        "rtf_p95": figures["rtf"]["p95"],
        "audio_s_per_s": figures["audio_s_per_s"],
        "continuity": figures["continuity"],
        "underrun_s_p95": figures["underrun_s"]["p95"],
        "valid": "; ".join(result["why_invalid"]) or "yes",
    }
    section.row(table, **where, **row)
    section.check(f"{table}, {where}", not figures["errors"], errors=figures["errors"], calls=figures["calls"])
    return figures


@contextmanager
def _running_mps() -> Iterator[None]:
    """Run NVIDIA's Multi-Process Service for the processes that are started in the block."""
    if not shutil.which(MPS):
        raise SkippedError(f"{MPS} is missing")
    with TemporaryDirectory() as folder:
        os.environ.update(CUDA_MPS_PIPE_DIRECTORY=folder, CUDA_MPS_LOG_DIRECTORY=folder)
        subprocess.run([MPS, "-d"], check=True)
        try:
            yield
        finally:
            subprocess.run([MPS], input=b"quit\n", check=True)


def make_model(section: Section, folder: Path) -> Path:
    """Write a model folder of random weights at the section's sizes; return it."""
    config = section.sizes.config
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    weights = RandomWeights(config, section.device, section.dtype)
    shapes = {name: torch.empty(shape, device="meta", dtype=section.dtype) for name, shape in weights.shapes.items()}
    save_weights(folder / "model.safetensors", shapes, lambda size: section.hurry(), lambda name: weights[name].cpu())
    torch.manual_seed(0)
    save_weights(folder / "mimi.safetensors", make_mimi_weights(config), lambda size: None)
    make_tokenizer(min(config.text_vocab_size, MAX_VOCABULARY)).save(str(folder / "tokenizer.json"))
    make_silentcipher(folder / "silentcipher", section.sizes.watermark_width)
    if section.device == "cuda":
        torch.cuda.empty_cache()  # the server's stages need the memory
    return folder


def _python_with_triton(folder: Path) -> Path:
    """Return a Python with packages that include Triton: this one, or that of an environment in `folder`, with what the
    archive has and, behind it, all that this one imports. (Triton's stub ignores PYTHONPATH.)"""
    if shutil.which("tritonserver") or find_spec("pytriton"):
        return Path(sys.executable)
    if not ARCHIVE.is_file():
        raise SkippedError(f"no tritonserver is installed, and {ARCHIVE} is missing: see make gpu-server-files")
    venv.create(folder, symlinks=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    unpack(ARCHIVE, packages)
    paths = [str(Path(path).resolve()) for path in sys.path if Path(path).is_dir()]
    (packages / "outside.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return folder / "bin" / "python"


def _roomy(section: Section) -> Path | None:
    """Return a folder in memory if the 8B model's weights fit there twice, else None: the usual one."""
    need = 2 * 17 << 30
    return IN_MEMORY if section.device == "cuda" and shutil.disk_usage(IN_MEMORY).free > need else None
