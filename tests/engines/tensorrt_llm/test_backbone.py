"""The TensorRT-LLM backbone engine from folder to frames, with the plugin's program in place of TensorRT-LLM."""

import ctypes
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from build.backbone import build_backbone
from convert.backbone import convert_backbone
from misotts.config import ModelConfig
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.interface import Backbone, Limits
from misotts.engines.table import EngineError, Variant
from misotts.engines.tensorrt_llm import backbone as tensorrt_llm_backbone
from misotts.engines.tensorrt_llm.backbone import TensorrtLlmBackbone
from misotts.engines.tensorrt_llm.tables import INPUT, OUTPUT
from misotts.model.checkpoint import Checkpoint
from tests.support.machine import Machine
from tests.support.models import copy_of, ignore
from tests.support.plugin import PluginEngine
from tests.support.utterances import assert_same_frames, eager_parts, speak

BLOCKS = 40
POOL = BLOCKS * 4 * 2 * 2 * 32 * 32
"""Elements of the pool: blocks, layers, keys and values, heads, positions, head size."""
LIMITS = Limits(max_streams=3, step_positions=70)
VARIANT = Variant(dtype="float32")


class Session:
    """Replaces `_Session`; the engine's file has the path of its checkpoint."""

    def __init__(self, engine: Path) -> None:
        self.checkpoint = Path(engine.read_text())

    def run(self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> None:
        assert all(tensor.is_contiguous() for tensor in inputs.values())
        tables = {name: tensor.numpy() for name, tensor in inputs.items() if name != INPUT}
        outputs[OUTPUT].copy_(PluginEngine(self.checkpoint, self.pool(tables), 32).run(inputs[INPUT], tables))

    def pool(self, tables: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the memory to which the tables point, float32."""
        address = int(tables["host_kv_cache_pool_pointers"][0, 0])
        return np.ctypeslib.as_array((ctypes.c_float * POOL).from_address(address))


class Forgetful(Session):
    """An engine without a fused kernel: its prefill chunks ignore earlier ones."""

    def run(self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> None:
        lengths = torch.where(
            inputs["host_request_types"] == 0, inputs["host_context_lengths"], inputs["sequence_length"]
        )
        past = torch.where(inputs["host_request_types"] == 0, lengths, inputs["host_past_key_value_lengths"])
        super().run({**inputs, "sequence_length": lengths, "host_past_key_value_lengths": past}, outputs)


def speak_by(model: Path, backbone: Backbone) -> list[np.ndarray]:
    """Generate four utterances in three slots: prompts of one chunk and of several."""
    return speak(replace(eager_parts(model), backbone=backbone), [3, 0, 4, 1], LIMITS)


@pytest.fixture
def model(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random model with an engine, on a machine that seems to have TensorRT-LLM."""
    model = copy_of(demo_folder, tmp_path / "model")
    Machine(monkeypatch)
    monkeypatch.setattr(tensorrt_llm_backbone, "_Session", Session)
    checkpoint = convert_backbone(model, VARIANT, ignore)
    folder = build_backbone(model, VARIANT, LIMITS, ignore)
    (folder / "rank0.engine").write_text(str(checkpoint))
    return model


def load(model: Path) -> TensorrtLlmBackbone:
    config = ModelConfig.load(model)
    return TensorrtLlmBackbone(model, Checkpoint(model, config), config, VARIANT, LIMITS, BLOCKS, device="cpu")


def test_the_same_frames_as_the_torch_engine(model: Path) -> None:
    engine = load(model)
    assert engine.block_size == 32
    assert engine._pool.nbytes == POOL * 4
    assert not engine._pool.any(), "the check at loading leaves the pool empty"
    config = ModelConfig.load(model)
    torch_engine = TorchBackbone(Checkpoint(model, config), config, BLOCKS)
    assert_same_frames(speak_by(model, engine), speak_by(model, torch_engine))


def test_an_engine_that_ignores_earlier_chunks_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_llm_backbone, "_Session", Forgetful)
    with pytest.raises(EngineError, match=r"two chunks .* \d+%, .*unfused MHA"):
        load(model)
