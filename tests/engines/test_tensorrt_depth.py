"""The depth graph compiles with TensorRT for RTX, which needs no GPU for it; engines that do not match are refused."""

import json
import time
from pathlib import Path

import pytest
import torch

from tests.support.models import MISO_8B, bare_folder, copy_of, ignore

pytest.importorskip(
    "tensorrt_rtx_bindings", reason="TensorRT for RTX: pip install 'misotts-serving[rtx]' (x86-64 Linux)"
)

from build import preflight
from build.depth import build_depth, depth_needs
from convert.depth import WEIGHTS, convert_depth
from misotts.config import ModelConfig
from misotts.engines.table import EngineError
from misotts.engines.tensorrt_depth import ENGINE, TensorrtDepth
from misotts.model.checkpoint import Checkpoint

ADA = "8.9"


def build(folder: Path, max_streams: int = 4, gpu: str | None = ADA) -> Path:
    return build_depth(folder, torch.bfloat16, max_streams, gpu, ignore)


@pytest.mark.long
def test_the_demo_models_graph_compiles(demo_folder: Path, tmp_path: Path) -> None:
    """32 codebooks in bfloat16 for SM89, with a profile up to 16 streams and every TOP_K."""
    folder = copy_of(demo_folder, tmp_path / "demo")
    weights = convert_depth(folder, torch.bfloat16, ignore) / WEIGHTS
    phases: list[tuple[str, int, int]] = []
    began = time.monotonic()
    engine = build_depth(folder, torch.bfloat16, 16, ADA, lambda *step: phases.append(step))
    print(f"compiled in {time.monotonic() - began:.1f} s, {(engine / ENGINE).stat().st_size / 1e6:.1f} MB")
    assert (engine / ENGINE).stat().st_size > weights.stat().st_size, "the weights must be in the engine"
    assert (engine / ENGINE).stat().st_size < 3 * weights.stat().st_size, "and once"
    assert [done for _, done, _ in phases] == sorted(done for _, done, _ in phases)
    assert all(done <= steps for _, done, steps in phases)
    assert len(phases) > 1
    manifest = json.loads((engine / "manifest.json").read_text())
    assert manifest["gpu"] == ADA
    assert manifest["limits"] == {"streams": 16, "ranks": 2048}
    assert manifest["made_with"]["tensorrt_rtx"].startswith("1.")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with its graph and its engine."""
    folder = bare_folder(tmp_path_factory.mktemp("tiny"))
    convert_depth(folder, torch.bfloat16, ignore)
    build(folder)
    return folder


def test_an_engine_that_is_up_to_date_is_not_built_again(tiny: Path) -> None:
    plan = tiny / "engines" / "depth-tensorrt-bfloat16" / ENGINE
    first = plan.stat().st_mtime_ns
    build(tiny)
    assert plan.stat().st_mtime_ns == first
    build(tiny, max_streams=5)
    assert plan.stat().st_mtime_ns > first


def test_a_build_that_cannot_succeed_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"does not build for compute capability 9\.0; it supports 7\.5, 8\.0"):
        build(tiny, gpu="9.0")
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="no GPU to build for"):
            build(tiny, gpu=None)
    folder = bare_folder(tmp_path)
    with pytest.raises(EngineError, match=r"no engine at .*depth-onnx-bfloat16; .* python -m convert depth"):
        build(folder)
    convert_depth(folder, torch.bfloat16, ignore)
    monkeypatch.setattr(preflight, "available_memory", lambda: 2**20)
    with pytest.raises(EngineError, match=r"about 1\.0 GiB of memory and .* 0\.0 GiB of memory are available"):
        build(folder)
    bare_folder(tmp_path, seed=1)
    with pytest.raises(EngineError, match=r"has weights .* python -m convert depth"):
        build(folder)


def test_a_graph_that_tensorrt_rejects_is_refused_with_its_reason(tmp_path: Path) -> None:
    folder = bare_folder(tmp_path)
    (convert_depth(folder, torch.bfloat16, ignore) / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"TensorRT rejects the depth graph:\n  "):
        build(folder)
    assert [file.name for file in (folder / "engines").iterdir()] == ["depth-onnx-bfloat16"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"made_with": {"tensorrt_rtx": "1.0"}}, "has made_with {'tensorrt_rtx': '1.0'}"),
        ({"gpu": "7.5"}, "has gpu 7.5"),
        ({"weights": "0" * 64}, "has weights 000"),
        ({"limits": {"streams": 2, "ranks": 16}}, "takes 2 streams, but 4 are needed"),
    ],
)
def test_an_engine_that_does_not_match_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    """The engine sees the GPU that it was built for."""
    monkeypatch.setattr("misotts.engines.tensorrt_depth.gpu_here", lambda: ADA)
    manifest = tiny / "engines" / "depth-tensorrt-bfloat16" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(whole), **change}))
    config = ModelConfig.load(tiny)
    try:
        with pytest.raises(EngineError, match=words):
            TensorrtDepth(tiny, Checkpoint(tiny, config), config, torch.bfloat16, max_streams=4)
    finally:
        manifest.write_text(whole)


def test_the_preflight_covers_the_measured_memory_and_disk(tmp_path: Path) -> None:
    """The depth decoder of the 8B model in bfloat16: 7.4 GiB at the peak, an engine of 1.54 GiB (docs/engines.md)."""
    (tmp_path / "config.json").write_text(json.dumps(MISO_8B.to_dict()))
    needs = depth_needs(tmp_path, torch.bfloat16)
    assert 7.4 * 2**30 < needs.memory < 10 * 2**30
    assert 1.54 * 2**30 < needs.disk < 2 * 2**30
