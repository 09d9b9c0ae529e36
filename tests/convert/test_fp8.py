"""FP8 checkpoints of the backbone: the calibration's result, the stored values, and the error of the hidden states."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from convert.__main__ import app
from convert.backbone import convert_backbone
from convert.calibrate import calibrate, real_prompts
from convert.fp8 import Fp8, weight_scale
from misotts.config import MASKED, ConfigError, ModelConfig
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch
from misotts.engines.table import Variant
from misotts.engines.tensorrt_llm.tables import constant_tables, pool_shape, step_tables
from misotts.model.checkpoint import Checkpoint
from tests.support.clips import folder_with_ann
from tests.support.models import copy_of, ignore
from tests.support.plugin import PluginEngine

TEXTS = ["Hello.", "How are you today, and where have you been?"]
BLOCK = 32


@pytest.fixture(scope="module")
def model(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model in a folder of its own, so that no other test sees its engines."""
    return copy_of(demo_folder, tmp_path_factory.mktemp("fp8") / "demo")


@pytest.fixture(scope="module")
def prompts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    voices = folder_with_ann(tmp_path_factory.mktemp("voices") / "voices")
    return real_prompts(model, ModelConfig.load(model), TEXTS, voices)


@pytest.fixture(scope="module")
def calibration(model: Path, prompts: list[torch.Tensor]) -> Fp8:
    config = ModelConfig.load(model)
    return calibrate(Checkpoint(model, config), config, prompts, True, ignore)


class Run:
    """One prompt through the eager engine, and through the plugin with a checkpoint; the inputs of its matrices
    are recorded."""

    def __init__(self, model: Path, checkpoint: Path, prompt: torch.Tensor) -> None:
        config = ModelConfig.load(model)
        weights = Checkpoint(model, config)
        blocks = np.arange(1, 2 + (len(prompt) - 1) // BLOCK, dtype=np.int32)[None]
        inputs = Embedding(weights, config).prompt(prompt)
        batch = Batch(inputs, np.array([len(prompt)], np.int32), np.array([0], np.int32), blocks)
        self.wanted = TorchBackbone(weights, config, blocks.size + 1, BLOCK).forward(batch)
        c = config.backbone
        shape = pool_shape(blocks.size + 1, c.num_layers, c.num_kv_heads, BLOCK, c.head_dim)
        pool = np.zeros(np.prod(shape), np.float32)
        engine = PluginEngine(checkpoint, pool, BLOCK)
        self.inputs: dict[str, float] = {}
        linear = engine._linear

        def watched(x: torch.Tensor, name: str) -> torch.Tensor:
            self.inputs[name.removeprefix("transformer.layers.")] = float(x.abs().max())
            return linear(x, name)

        engine._linear = watched  # type: ignore[method-assign]
        rotated: list[float] = []
        rotate = engine._rotate

        def watched_rotate(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            turned = rotate(x, at)
            rotated.append(float(turned.abs().max()))
            return turned

        engine._rotate = watched_rotate  # type: ignore[method-assign]
        step = step_tables(batch, c.num_layers)
        tables = constant_tables(c.num_layers, config.max_seq_len, 1, pool.ctypes.data) | step.tables
        self.found = engine.run(inputs, {name: np.ascontiguousarray(table) for name, table in tables.items()})
        stored = np.abs(pool.reshape(shape)).max(axis=(0, 2, 3, 4, 5))
        self.attended = np.maximum(stored, np.reshape(rotated, (c.num_layers, 2)).max(axis=1))
        """Largest magnitude of queries, keys and values, by layer."""

    @property
    def error(self) -> float:
        """RMS of the difference, as a share of the RMS of the eager engine's states."""
        return float((self.found - self.wanted).square().mean().sqrt() / self.wanted.square().mean().sqrt())


def test_prompts_have_text_and_speech(prompts: list[torch.Tensor]) -> None:
    assert len(prompts) == len(TEXTS)
    for prompt in prompts:
        speech = prompt[:, -1] == MASKED
        assert speech.any()
        assert not speech.all()


def test_a_calibration_without_voices_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    with pytest.raises(ConfigError, match="no voice at"):
        real_prompts(model, ModelConfig.load(model), TEXTS, tmp_path / "voices")


def test_the_calibration_finds_the_largest_magnitude_of_all_prompts(
    model: Path, prompts: list[torch.Tensor], calibration: Fp8
) -> None:
    exact = convert_backbone(model, Variant(dtype="float32"), ignore)
    runs = [Run(model, exact, prompt) for prompt in prompts]
    for layer, found in enumerate(calibration.inputs):
        wanted = {name: max(run.inputs[f"{layer}.{name}"] for run in runs) for name in found}
        assert found == pytest.approx(wanted, rel=1e-4)
        assert calibration.cached[layer] == pytest.approx(max(run.attended[layer] for run in runs), rel=1e-4)


def is_least_bfloat16(scale: torch.Tensor, least: float) -> bool:
    """True if a scale is the least number of bfloat16 from `least` on, so that TensorRT-LLM's cast does not change
    it."""
    return torch.equal(scale.bfloat16().float(), scale) and least <= scale.item() * (1 + 1e-6) < least * (1 + 2**-7)


@pytest.mark.parametrize("ranks", [1, 2])
def test_stored_values_are_the_source_within_half_a_step(model: Path, calibration: Fp8, ranks: int) -> None:
    folder = convert_backbone(model, Variant("fp8", "fp8", ranks=ranks), ignore, calibration)
    source = Checkpoint(model, ModelConfig.load(model))
    shards = [load_file(folder / f"rank{rank}.safetensors") for rank in range(ranks)]
    for matrix, name, split in (
        ("mlp.proj", "mlp.w2", 1),
        ("attention.dense", "attn.output_proj", 1),
        ("mlp.fc", "mlp.w1", 0),
    ):
        key = f"transformer.layers.1.{matrix}"
        assert {shard[f"{key}.weight"].dtype for shard in shards} == {torch.float8_e4m3fn}
        scale = shards[0][f"{key}.weights_scaling_factor"]
        assert all(torch.equal(shard[f"{key}.weights_scaling_factor"], scale) for shard in shards)
        wanted = source[f"backbone.layers.1.{name}.weight"]
        found = torch.cat([shard[f"{key}.weight"].float() for shard in shards], dim=split) * scale
        # With three bits of mantissa half a step is 1/16 of the value; below 2**-6 a step is 2**-9 of the scale.
        assert ((found - wanted).abs() <= wanted.abs() / 16 + scale * 2.0**-10).all()
        assert not torch.equal(found, wanted)
    layer = {name.removeprefix("transformer.layers.1."): t for name, t in shards[0].items() if ".layers.1." in name}
    largest = max(source[f"backbone.layers.1.attn.{name}_proj.weight"].abs().max() for name in "qkv")
    assert is_least_bfloat16(layer["attention.qkv.weights_scaling_factor"], float(largest) / 448)
    assert torch.equal(layer["mlp.fc.weights_scaling_factor"], layer["mlp.gate.weights_scaling_factor"])
    assert is_least_bfloat16(layer["mlp.proj.activation_scaling_factor"], calibration.inputs[1]["mlp.proj"] / 448)
    assert layer["attention.kv_cache_scaling_factor"].item() == pytest.approx(calibration.cached[1] / 448)
    assert {(t.dtype, t.shape) for name, t in layer.items() if name.endswith("factor")} == {(torch.float32, (1,))}
    assert {t.dtype for name, t in layer.items() if name.endswith("norm.weight")} == {torch.bfloat16}
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}


@pytest.mark.parametrize("kv", [False, True])
def test_the_error_of_the_hidden_states(model: Path, prompts: list[torch.Tensor], calibration: Fp8, kv: bool) -> None:
    variant = Variant("fp8", "fp8" if kv else "full")
    folder = convert_backbone(model, variant, ignore, Fp8(calibration.inputs, calibration.cached, kv))
    error = Run(model, folder, prompts[1]).error
    print(f"FP8{' and KV' * kv}: hidden states differ by {error:.1%} of their RMS")
    assert 0.01 < error < 0.2


def test_the_command(model: Path, tmp_path: Path) -> None:
    voices = folder_with_ann(tmp_path / "voices")
    (tmp_path / "texts").write_text("Hello.\n\n")
    run = CliRunner().invoke(app, ["backbone", str(model), "--ranks", "2", "--weights", "fp8"])
    assert run.exit_code == 2
    assert "--voices" in run.output
    arguments = ["--ranks", "2", "--weights", "fp8", "--voices", str(voices), "--texts", str(tmp_path / "texts")]
    run = CliRunner().invoke(app, ["backbone", str(model), *arguments])
    assert run.exit_code == 0, run.output
    folder = model / "engines" / "backbone-checkpoint-fp8-tp2-bfloat16"
    assert f"{folder} is ready" in run.output.replace("\n", "")
    assert "transformer.layers.0.mlp.fc.activation_scaling_factor" in load_file(folder / "rank1.safetensors")
    run = CliRunner().invoke(app, ["backbone", str(tmp_path)])
    assert run.exit_code == 1
    assert "error: no model at" in run.output


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_scale_is_a_number_of_the_activations_type(dtype: torch.dtype) -> None:
    """It is not below the measured one, which would cut off the largest magnitude, and at most the next number
    above."""
    for largest in (1e-3, 0.0371, 1.0, 448.0, 449.0, 3e4):
        matrix = weight_scale([torch.tensor([largest, -largest / 3])], dtype)
        state = Fp8([{"mlp.fc": largest}], [1.0], kv=False).input_scale(0, "mlp.fc", dtype)
        for scale in (matrix, state):
            assert scale.dtype == torch.float32
            assert torch.equal(scale.to(dtype).float(), scale)
            assert largest / 448 <= scale.item() * (1 + 1e-6)
            below = torch.nextafter(scale.to(dtype).cpu(), torch.zeros(1, dtype=dtype)).float()
            assert below.item() < largest / 448 * (1 + 1e-6)
