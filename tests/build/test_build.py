"""The checks before and after TensorRT-LLM's builder, and those of a built engine."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from build.__main__ import app
from build.backbone import build_backbone, capable_gpu, check_built
from convert.backbone import convert_backbone
from convert.backbone_weights import MATRICES
from convert.fp8 import Fp8
from misotts.engines.interface import Limits
from misotts.engines.manifest import Manifest
from misotts.engines.table import EngineError, EngineFolder, Variant
from misotts.engines.tensorrt_llm.backbone import checked_manifest
from misotts.model.checkpoint import Checkpoint
from tests.support.machine import BUILT, Machine, built_with
from tests.support.models import bare_folder, ignore, tiny_config, tiny_weights

LIMITS = Limits(max_streams=8)


def build(model: Path, variant: Variant | None = None, limits: Limits = LIMITS) -> Path:
    return build_backbone(model, variant or Variant(), limits, ignore)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return bare_folder(tmp_path / "model")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_an_engine_is_built_once_and_again_when_anything_changes(model: Path, machine: Machine) -> None:
    convert_backbone(model, Variant(ranks=2), ignore)
    variant = Variant(ranks=2)
    folder = build(model, variant)
    assert folder == model / "engines" / "backbone-tensorrt-llm-tp2-bfloat16"
    assert {path.name for path in folder.iterdir()} == {"rank0.engine", "rank1.engine", "config.json", "manifest.json"}
    assert machine.built == [0, 1]
    build(model, variant)
    assert machine.built == [0, 1]

    def build_again() -> None:
        machine.built.clear()
        build(model, variant)
        assert machine.built == [0, 1]

    machine.gpu = "8.9"
    build_again()
    machine.release = "1.2.2"
    build_again()
    bare_folder(model, seed=1)
    with pytest.raises(EngineError, match=r"again with: python -m convert backbone .* --dtype bfloat16 --ranks 2"):
        build(model, variant)
    convert_backbone(model, Variant(ranks=2), ignore)
    build_again()
    machine.built.clear()
    build(model, variant, replace(LIMITS, max_streams=9))
    assert machine.built == [0, 1]


def test_a_new_calibration_is_a_new_engine(model: Path, machine: Machine) -> None:
    variant = Variant("fp8")
    for largest in (1.0, 2.0):
        fp8 = Fp8([dict.fromkeys(MATRICES, largest)] * 2, [largest] * 2, kv=False)
        for _ in range(2):
            convert_backbone(model, Variant("fp8"), ignore, fp8)
            build(model, variant)
    assert machine.built == [0, 0]


def test_what_is_missing_is_reported_before_the_build_starts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"no engine at .*; build it with: python -m convert backbone"):
        build(model)
    convert_backbone(model, Variant(), ignore)
    with pytest.raises(EngineError, match=r"TensorRT-LLM 1\.2"):
        build(model)
    machine = Machine(monkeypatch)
    machine.gpu = None
    with pytest.raises(EngineError, match="GPU of this machine"):
        build(model)
    machine.gpu = "7.5"
    with pytest.raises(EngineError, match=r"bfloat16 .* 8\.0 .* 7\.5"):
        build(model)
    machine.gpu = "11.0"
    with pytest.raises(EngineError, match=r"--kv-type fp8 .* 8\.9 or 9\.0 or .* 11\.0"):
        capable_gpu(Variant("fp8", "fp8"))
    machine.gpu = "8.0"
    monkeypatch.setattr("build.preflight.available_memory", lambda: 1000)
    with pytest.raises(EngineError, match="the build takes about"):
        build(model)
    assert not machine.built
    assert [path.name for path in (model / "engines").iterdir()] == ["backbone-checkpoint-tp1-bfloat16"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("use_paged_context_fmha", False),
        ("remove_input_padding", False),
        ("tokens_per_block", 64),
        ("paged_kv_cache", False),
        ("gpt_attention_plugin", None),
        ("max_num_tokens", 100),
    ],
)
def test_an_engine_with_wrong_settings_is_discarded(model: Path, machine: Machine, setting: str, value: object) -> None:
    convert_backbone(model, Variant(), ignore)
    plugins = BUILT["plugin_config"]
    machine.config = {"plugin_config": {**plugins, setting: value}} if setting in plugins else {setting: value}
    with pytest.raises(EngineError, match=r"TensorRT-LLM has built the backbone with(out)? "):
        build(model)
    assert not (model / "engines" / "backbone-tensorrt-llm-tp1-bfloat16").exists()
    sizes = {"sequences": 8, "positions": 512, "max_seq_len": 64}
    check_built({"build_config": built_with(sizes)}, sizes)


def test_an_engine_that_does_not_match_is_refused_with_the_reason(model: Path, machine: Machine) -> None:
    config = tiny_config()
    convert_backbone(model, Variant(), ignore)
    built = Limits(max_streams=8, step_positions=100)
    folder = build(model, limits=built)

    def check(limits: Limits = built) -> Manifest:
        return checked_manifest(EngineFolder(folder, "BUILD"), Checkpoint(model, config), config, limits)

    assert check().limits == {"sequences": 8, "positions": 100, "max_seq_len": 64, "block_size": 32, "ranks": 1}
    with pytest.raises(EngineError, match="takes 8 sequences, but 9 are needed; build it again with: BUILD"):
        check(replace(built, max_streams=9))
    with pytest.raises(EngineError, match="takes 100 positions, but 512 are needed"):
        check(replace(built, step_positions=600))  # 8 sequences of 64 positions have no more
    machine.gpu = "8.9"
    with pytest.raises(EngineError, match=r"has gpu 9.0, but 8.9 is needed"):
        check()
    machine.gpu, machine.release = "9.0", "1.2.2"
    with pytest.raises(EngineError, match=r"has made_with {'tensorrt_llm': '1.2.1'}, but"):
        check()
    machine.release = "1.2.1"
    weights = tiny_weights()
    weights["decoder.norm.scale"] += 1  # a change of the depth decoder leaves the backbone's engine valid
    save_file(weights, model / "model.safetensors")
    check()
    with pytest.raises(EngineError, match=r"has limits {'ranks': 1, 'max_seq_len': 64}, but {.*128} is needed"):
        checked_manifest(EngineFolder(folder, "BUILD"), weights, tiny_config(max_seq_len=128), built)
    with pytest.raises(EngineError, match="has weights"):  # the hash includes RoPE
        checked_manifest(EngineFolder(folder, "BUILD"), weights, tiny_config(rope_scale_factor=16.0), built)
    weights["backbone.norm.scale"] += 1
    save_file(weights, model / "model.safetensors")
    with pytest.raises(EngineError, match=r"has weights \w{64}, but \w{64} is needed here; build it again with: BUILD"):
        check()


def test_the_command_reports_what_is_missing(model: Path) -> None:
    convert_backbone(model, Variant(), ignore)
    run = CliRunner().invoke(app, ["backbone", str(model)])
    assert run.exit_code == 1
    assert "error: the backbone engine needs TensorRT-LLM 1.2" in run.output


def test_an_engine_of_several_ranks_is_refused(model: Path, machine: Machine) -> None:
    convert_backbone(model, Variant(dtype="float16", ranks=2), ignore)
    folder = build(model, Variant(dtype="float16", ranks=2))
    with pytest.raises(EngineError, match=r"has limits {'ranks': 2, 'max_seq_len': 64}, but {'ranks': 1"):
        checked_manifest(EngineFolder(folder, "BUILD"), Checkpoint(model, tiny_config()), tiny_config(), LIMITS)
