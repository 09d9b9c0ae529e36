"""What `misotts serve` says of engines and libraries that are not there, before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convert.backbone import CHECKPOINT
from misotts.config import ModelConfig
from misotts.engines import available as engines
from misotts.engines.available import missing_engine
from misotts.engines.interface import Limits
from misotts.engines.manifest import EngineError, depth_engine, engine_folder
from misotts.engines.tensorrt_llm.backbone import ENGINE, Variant
from misotts.generate.load import load_generator
from misotts.serve.launcher import ServeError, ServeOptions, serve

MODEL = Path("model")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The libraries that are there."""
    libraries: set[str] = set()
    monkeypatch.setattr(engines, "_is_installed", lambda module: module in libraries)
    return libraries


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_torch_needs_nothing(installed: set[str]) -> None:
    assert missing_engine(MODEL, "torch", "torch", 4) is None


def test_a_missing_library_is_named(installed: set[str]) -> None:
    assert "needs TensorRT-LLM 1.2" in str(missing_engine(MODEL, "tensorrt-llm", "torch", 4))
    assert "needs TensorRT, which" in str(missing_engine(MODEL, "torch", "tensorrt-fp8", 4))
    assert "pip install 'misotts-serving[onnx]'" in str(missing_engine(MODEL, "torch", "onnx", 4))


@pytest.mark.parametrize(
    ("backbone", "variant", "option"),
    [
        ("tensorrt-llm", Variant(), "no"),
        ("tensorrt-llm-fp8", Variant(fp8=True), "weights"),
        ("tensorrt-llm-fp8-kv8", Variant(fp8=True, fp8_kv=True), "weights-and-kv"),
    ],
)
def test_the_backbone_is_looked_for_where_build_puts_it(
    tmp_path: Path, installed: set[str], backbone: engines.BackboneEngine, variant: Variant, option: str
) -> None:
    installed.add("tensorrt_llm")
    missing = str(missing_engine(tmp_path, backbone, "torch", 4))
    assert missing.startswith("no engine at ")
    assert missing.endswith(f"make it with: python -m build backbone {tmp_path} --fp8 {option} --max-streams 4")
    assert Variant.named(backbone, torch.bfloat16) == variant
    make(engine_folder(tmp_path, CHECKPOINT + variant.suffix, torch.bfloat16))  # what it is built from is no engine
    assert missing_engine(tmp_path, backbone, "torch", 4)
    make(engine_folder(tmp_path, ENGINE + variant.suffix, torch.bfloat16))
    assert missing_engine(tmp_path, backbone, "torch", 4) is None


@pytest.mark.parametrize("stored", [None, "int8", "fp8"])
@pytest.mark.parametrize(("library", "dtype"), [("onnx", torch.float32), ("tensorrt", torch.bfloat16)])
def test_the_depth_decoder_is_looked_for_where_build_puts_it(
    tmp_path: Path, installed: set[str], library: str, dtype: torch.dtype, stored: str | None
) -> None:
    installed.update(["onnxruntime", "tensorrt"])
    engine: engines.DepthEngine = f"{library}-{stored}" if stored else library  # type: ignore[assignment]
    for other in {None, "int8", "fp8"} - {stored}:
        make(engine_folder(tmp_path, depth_engine(library, other), dtype))
    missing = str(missing_engine(tmp_path, "torch", engine, 4))
    assert missing.startswith(f"no engine at {tmp_path}/engines/")
    assert (f"--weights {stored}" in missing) == bool(stored)
    make(engine_folder(tmp_path, depth_engine(library, stored), dtype))
    assert missing_engine(tmp_path, "torch", engine, 4) is None


def test_serve_says_it_before_it_starts(demo_folder: Path) -> None:
    with pytest.raises(ServeError, match="--backbone tensorrt-llm needs TensorRT-LLM"):
        serve(ServeOptions(demo_folder, backbone="tensorrt-llm"))


def test_an_engine_for_gpus_is_refused_on_the_cpu(demo_folder: Path) -> None:
    with pytest.raises(EngineError, match="the tensorrt-llm-fp8 backbone engine does not run on cpu"):
        load_generator(demo_folder, ModelConfig.load(demo_folder), Limits(), backbone="tensorrt-llm-fp8")
