"""The engine options: which can be combined, and what is missing before the server starts anything."""

from pathlib import Path
from typing import get_args

import pytest

from misotts.config import ModelConfig
from misotts.engines import table
from misotts.engines.interface import Limits
from misotts.engines.load import load_engine
from misotts.engines.table import (
    BackboneLibrary,
    DepthLibrary,
    EngineChoice,
    EngineError,
    EngineFolder,
    Variant,
    check_choice,
    check_engines,
    depth_graph_folder,
    tensorrt_depth_folder,
)
from misotts.serve.launcher import ServeError, serve
from misotts.serve.settings import ServeOptions

MODEL = Path("model")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The libraries that are installed."""
    libraries: set[str] = set()
    monkeypatch.setattr(table, "_is_installed", lambda module: module in libraries)
    return libraries


def make(folder: EngineFolder) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "manifest.json").write_text("{}")


def test_every_library_has_a_row() -> None:
    assert set(table.BACKBONES) == set(get_args(BackboneLibrary))
    assert set(table.DEPTHS) == set(get_args(DepthLibrary))


def test_torch_needs_nothing(installed: set[str]) -> None:
    check_engines(MODEL, EngineChoice(), 4)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (EngineChoice("tensorrt-llm"), "needs TensorRT-LLM 1.2"),
        (EngineChoice(depth="tensorrt"), "needs TensorRT, which"),
    ],
)
def test_a_missing_library_is_named(installed: set[str], choice: EngineChoice, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        check_engines(MODEL, choice, 4)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (EngineChoice("torch", "int8"), "the torch backbone cannot have --weights int8 --kv-type full, only"),
        (EngineChoice("torch", "full", "fp8"), "only --weights full --kv-type full$"),
        (
            EngineChoice("tensorrt-llm", "int8"),
            "--weights int8 --kv-type full, only .* or --weights fp8 --kv-type full",
        ),
        (EngineChoice("tensorrt-llm", "full", "fp8"), "cannot have --weights full --kv-type fp8, only"),
        (EngineChoice("graph", depth="tensorrt"), "leave out --depth tensorrt"),
    ],
)
def test_options_that_exclude_each_other_are_refused_in_one_line(choice: EngineChoice, words: str) -> None:
    with pytest.raises(EngineError, match=words) as error:
        check_choice(choice)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "variant", [Variant(), Variant("fp8"), Variant("fp8", "fp8")], ids=["full", "fp8", "fp8 and fp8 KV"]
)
def test_the_backbone_is_loaded_from_the_folder_of_its_build(
    tmp_path: Path, installed: set[str], variant: Variant
) -> None:
    installed.add("tensorrt_llm")
    choice = EngineChoice("tensorrt-llm", variant.weights, variant.kv_type)
    make(variant.checkpoint(tmp_path))  # the checkpoint is not the engine
    with pytest.raises(EngineError, match=r"^no engine at ") as error:
        check_engines(tmp_path, choice, 4)
    options = f"--weights {variant.weights} --kv-type {variant.kv_type} --max-streams 4"
    assert str(error.value).endswith(f"python -m build backbone {tmp_path} --dtype bfloat16 --ranks 1 {options}")
    make(variant.engine(tmp_path, 4))
    check_engines(tmp_path, choice, 4)


def test_engine_folders_keep_their_names() -> None:
    """Engines that were built by an earlier release are still found."""
    names = [variant.engine(MODEL, 4).path.name for variant in (Variant(), Variant("fp8"), Variant("fp8", "fp8"))]
    assert names == [f"backbone-tensorrt-llm{types}-tp1-bfloat16" for types in ("", "-fp8", "-fp8-kv8")]
    assert Variant("fp8", "fp8", "float16", 2).checkpoint(MODEL).path.name == "backbone-checkpoint-fp8-kv8-tp2-float16"
    assert depth_graph_folder(MODEL, "float32").path == MODEL / "engines" / "depth-onnx-float32"
    assert tensorrt_depth_folder(MODEL, "bfloat16", 4).path == MODEL / "engines" / "depth-tensorrt-bfloat16"


def test_the_depth_decoder_is_loaded_from_the_folder_of_its_build(tmp_path: Path, installed: set[str]) -> None:
    installed.add("tensorrt")
    with pytest.raises(EngineError, match=f"^no engine at {tmp_path}/engines/"):
        check_engines(tmp_path, EngineChoice(depth="tensorrt"), 4)
    make(depth_graph_folder(tmp_path, "bfloat16"))  # the graph is not the engine
    with pytest.raises(EngineError, match=r"^no engine at "):
        check_engines(tmp_path, EngineChoice(depth="tensorrt"), 4)
    make(tensorrt_depth_folder(tmp_path, "bfloat16", 4))
    check_engines(tmp_path, EngineChoice(depth="tensorrt"), 4)


def test_serve_refuses_before_it_starts_anything(demo_folder: Path) -> None:
    with pytest.raises(ServeError, match="--backbone tensorrt-llm needs TensorRT-LLM"):
        serve(ServeOptions(model=demo_folder, engines=EngineChoice("tensorrt-llm")))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (EngineChoice("tensorrt-llm", "fp8"), "--backbone tensorrt-llm does not run on cpu"),
        (EngineChoice(depth="tensorrt"), "--depth tensorrt does not run on cpu"),
    ],
)
def test_an_engine_for_gpus_is_refused_on_the_cpu(demo_folder: Path, choice: EngineChoice, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        load_engine(demo_folder, ModelConfig.load(demo_folder), Limits(), choice)
