"""The TensorRT-LLM backbone engine from folder to frames, with the plugin's program in place of TensorRT-LLM."""

import ctypes
import sys
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
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Backbone, Limits
from misotts.engines.table import EngineError, Variant
from misotts.engines.tensorrt_llm import backbone as tensorrt_llm_backbone
from misotts.engines.tensorrt_llm.backbone import TensorrtLlmBackbone, tensorrt_llm_release
from misotts.engines.tensorrt_llm.tables import INPUT, OUTPUT
from misotts.model.checkpoint import Checkpoint
from tests.support.emulated_gpu import EmulatedGpu, OnGpu
from tests.support.machine import Machine
from tests.support.models import copy_of, ignore
from tests.support.plugin import PluginEngine
from tests.support.utterances import Parts, assert_same_frames, eager_parts, speak

BLOCKS = 70
POOL = BLOCKS * 4 * 2 * 2 * 32 * 32
"""Elements of the pool: blocks, layers, keys and values, heads, positions, head size."""
LIMITS = Limits(max_streams=3, step_positions=70)
VARIANT = Variant(dtype="float32")
SESSION = tensorrt_llm_backbone._Session


class Session:
    """Replaces `_Session`; the engine's file has the path of its checkpoint."""

    def __init__(self, engine: Path) -> None:
        self.checkpoint = Path(engine.read_text())

    def run(self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> None:
        assert all(tensor.is_contiguous() for tensor in inputs.values())
        with torch._C.DisableTorchFunction():  # the emulated GPU does not see what happens on the device
            tables = {name: tensor.as_subclass(torch.Tensor).numpy() for name, tensor in inputs.items()}
            hidden = torch.from_numpy(tables.pop(INPUT))
            outputs[OUTPUT].copy_(PluginEngine(self.checkpoint, self.pool(tables), 32).run(hidden, tables))

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
    return TensorrtLlmBackbone(model, Checkpoint(model, config), config, VARIANT, LIMITS, POOL * 4, device="cpu")


def test_the_same_frames_as_the_torch_engine(model: Path) -> None:
    engine = load(model)
    assert (engine.block_size, engine.num_blocks) == (32, BLOCKS)
    assert engine._pool.nbytes == POOL * 4
    assert not engine._pool.any(), "the check at loading leaves the pool empty"
    config = ModelConfig.load(model)
    torch_engine = TorchBackbone(Checkpoint(model, config), config, BLOCKS)
    assert_same_frames(speak_by(model, engine), speak_by(model, torch_engine))


def test_an_engine_that_ignores_earlier_chunks_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_llm_backbone, "_Session", Forgetful)
    with pytest.raises(EngineError, match=r"two chunks .* \d+%, .*unfused MHA"):
        load(model)


class OnTheGpu(Session):
    """A session of the emulated GPU: it refuses inputs that TensorRT would not read there."""

    def run(self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in inputs.items():
            assert isinstance(tensor, OnGpu) == (not name.startswith("host_")), name
            if name not in (INPUT, "cache_indirection") and isinstance(tensor, OnGpu):
                assert tensor.storage_offset() % 64 == 0, f"{name} is not aligned to 256 bytes"
        super().run(inputs, outputs)


@pytest.mark.long
def test_no_step_waits_for_the_device(model: Path, emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames on the emulated GPU are the CPU's, and the tables reach the device without a wait."""
    expected = speak_by(model, load(model))
    monkeypatch.setattr(tensorrt_llm_backbone, "_Session", OnTheGpu)
    config = ModelConfig.load(model)
    weights = Checkpoint(model, config)
    embedding = Embedding(weights, config, "cuda")
    backbone = TensorrtLlmBackbone(model, weights, config, VARIANT, LIMITS, POOL * 4)
    parts = Parts(config, embedding, backbone, TorchDepth(weights, config, embedding))
    emulated_gpu.waits.clear()
    assert_same_frames(speak(parts, [3, 0, 4, 1], LIMITS), expected)
    assert emulated_gpu.waits == []


def test_an_engine_that_does_not_fit_is_refused_in_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-LLM's session raises AssertionErrors."""

    class Sessions:
        @staticmethod
        def from_serialized_engine(engine: bytes) -> None:
            raise AssertionError("Failed to create an execution context!")

    class Module:
        Session = Sessions

    monkeypatch.setattr(tensorrt_llm_backbone, "_Session", SESSION)
    for name in ("tensorrt_llm", "tensorrt_llm.runtime", "tensorrt_llm.runtime.session"):
        monkeypatch.setitem(sys.modules, name, Module)
    with pytest.raises(EngineError, match=r"rank0\.engine cannot be loaded: Failed to create .*unfused MHA"):
        load(model)


def test_only_releases_with_tensorrt_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for release, message in (("1.2.1", None), ("1.3.0rc21", "has 1.3.0rc21"), ("1.10.0", "has 1.10.0")):
        monkeypatch.setattr(tensorrt_llm_backbone, "version", lambda name, release=release: release)
        if message is None:
            assert tensorrt_llm_release() == {"tensorrt_llm": release}
            continue
        with pytest.raises(EngineError, match=message):
            tensorrt_llm_release()
