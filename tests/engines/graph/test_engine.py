"""The graph engine without capture, on the CPU: its frames are exactly the eager engine's."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine, row_buckets
from misotts.engines.graph.operations import operations
from misotts.engines.interface import Batch, Limits, Step
from misotts.engines.table import KvType, WeightType
from misotts.generate.loop import Generator
from misotts.model.checkpoint import Checkpoint
from tests.support.models import tiny_config, tiny_weights
from tests.support.utterances import PROMPTS, Parts, assert_same_frames, run


def make_engine(folder: Path, parts: Parts, limits: Limits, num_blocks: int = 200) -> GraphEngine:
    config, weights = parts.config, Checkpoint(folder, parts.config)
    plain = operations("plain")
    backbone = GraphBackbone(weights, config, num_blocks, 32, plain, "cpu", torch.float32)
    depth = GraphDepth(weights, config, parts.embedding, plain)
    return GraphEngine(config, parts.embedding, backbone, depth, limits.max_streams)


@pytest.mark.parametrize(
    "limits",
    [Limits(max_streams=11), Limits(max_streams=3, step_positions=100)],
    ids=["all at once", "three slots, prefill in chunks"],
)
def test_frames_are_the_torch_engines(parts: Parts, alone: list[np.ndarray], demo_folder: Path, limits: Limits) -> None:
    """Batches have every size, so that rows are padded; then three with shared prefixes run again, then one alone."""
    engine = make_engine(demo_folder, parts, limits)
    for numbers in (range(len(PROMPTS)), [0, 5, 6], [7]):
        assert_same_frames(run(Generator(parts.config, engine, limits), parts, numbers), [alone[n] for n in numbers])


def test_preemption_changes_no_frame(parts: Parts, alone: list[np.ndarray], demo_folder: Path) -> None:
    engine = make_engine(demo_folder, parts, Limits(), num_blocks=4)  # 3 of 32 positions; both grow to 2
    generator = Generator(parts.config, engine, Limits())
    assert_same_frames(run(generator, parts, [1, 7]), [alone[1], alone[7]])
    assert generator.core.scheduler.preempted


def test_padding_rows_change_no_block_and_no_slot(parts: Parts, demo_folder: Path) -> None:
    engine = make_engine(demo_folder, parts, Limits(max_streams=4), num_blocks=9)
    engine.next_input.normal_()
    before = engine.next_input.clone()
    columns = parts.config.max_seq_len // 32
    blocks = np.zeros((3, columns), np.int32)
    blocks[:, 0] = [2, 4, 6]
    slots, starts = np.array([3, 0, 2]), np.array([0, 5, 31], np.int32)
    engine.step(next_frames(slots, starts, blocks, np.zeros(3, np.int64), np.arange(3), np.ones(3), np.full(3, 50)))
    written = (engine.next_input != before).any(dim=1)
    assert written.tolist() == [True, False, True, True, True]  # the last is the scratch slot
    full = engine.backbone._pool.flatten(0, 1).transpose(0, 1).flatten(1).any(dim=1)
    assert full.tolist() == [n in (0, 2, 4, 6) for n in range(9)]


def next_frames(
    slots: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int32],
    blocks: npt.NDArray[np.int32],
    numbers: npt.NDArray[np.int64],
    seeds: npt.NDArray[np.int64],
    temperature: npt.NDArray[np.float64],
    top_k: npt.NDArray[np.int64],
) -> Step:
    """Make a step in which every sequence generates its next frame."""
    n = len(slots)
    rows, ones = np.zeros((0, 0), np.int64), np.ones(n, np.int32)
    return Step(slots, starts, ones, blocks, n, rows, ones > 0, numbers, seeds, temperature.astype(np.float32), top_k)


class NoWaiting(TorchDispatchMode):
    """Records the operations of the captured code, and refuses those with tensors of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        for tensor in pytree.tree_leaves((args, kwargs, out)):
            if isinstance(tensor, torch.Tensor):
                assert tensor.device.type != "cpu", f"{func} has a tensor of the host"
        return out


@pytest.mark.parametrize(("weight_type", "kv_type"), [("full", "full"), ("fp8", "fp8"), ("int8", "full")])
def test_the_captured_code_reads_no_value(weight_type: WeightType, kv_type: KvType) -> None:
    """It runs on fake tensors of another device than the host's, where reading a value, a shape that depends on one,
    and mixing of devices are errors. (A PyTorch without CUDA cannot index fake CUDA tensors, but `meta` ones.)"""
    config, plain, dtype = tiny_config(), operations("plain"), torch.bfloat16
    mode = FakeTensorMode()
    weights = {name: mode.from_tensor(tensor) for name, tensor in tiny_weights().items()}
    with mode:
        embedding = Embedding(weights, config, "meta", dtype)
        backbone = GraphBackbone(weights, config, 20, 16, plain, "meta", dtype, weight_type, kv_type)
        depth = GraphDepth(weights, config, embedding, plain, weight_type)
        engine = GraphEngine(config, embedding, backbone, depth, max_streams=3)
        for bucket in (engine.buckets[0], engine.buckets[-1]):
            with NoWaiting() as seen:
                engine.compute(bucket)
            assert len(seen.names) > 100
            with pytest.raises(AssertionError, match="tensor of the host"), NoWaiting():
                bucket.codes.add(torch.ones(1))


def test_buckets_cover_every_number_of_streams() -> None:
    assert row_buckets(1) == [1]
    assert row_buckets(3) == [1, 2, 3]
    assert row_buckets(64) == [1, 2, 4, 8, 16, 32, 64]
    assert row_buckets(65) == [1, 2, 4, 8, 16, 32, 64, 65]
    assert row_buckets(300) == [1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 300]
    for streams in range(1, 400):
        buckets = row_buckets(streams)
        assert buckets == sorted(set(buckets))
        assert buckets[-1] == streams


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are not interpreted here")
@pytest.mark.parametrize("weight_type", ["full", "int8"])
def test_frames_by_the_kernels(weight_type: WeightType, monkeypatch: pytest.MonkeyPatch) -> None:
    """All kernels together, in Triton's interpreter, sample the frames of the plain operations, after prompts of two
    sequences. (FP8 keys and values are left out, because the interpreter rounds to FP8 wrongly.)"""
    pytest.importorskip("triton")
    monkeypatch.setattr("misotts.engines.graph.kernels.attention.MAX_SPLITS", 2)
    config, weights = tiny_config(), tiny_weights()
    embedding = Embedding(weights, config)
    prompts = torch.randn(5, embedding.width, generator=torch.Generator().manual_seed(0))
    blocks = np.array([[3, 1, 0, 0], [2, 4, 0, 0]], np.int32)
    sampled = []
    for path in ("plain", "fused"):
        run = operations(path)
        backbone = GraphBackbone(weights, config, 6, 16, run, "cpu", torch.float32, weight_type)
        depth = GraphDepth(weights, config, embedding, run, weight_type)
        engine = GraphEngine(config, embedding, backbone, depth, max_streams=3)
        lengths, starts = np.array([3, 2], np.int32), np.zeros(2, np.int32)
        engine.next_input[:2] = backbone.forward(Batch(prompts, lengths, starts, blocks))
        for number in range(2):
            sampling = np.array([7, -8]), np.array([0.9, 2.0]), np.array([5, 16])
            starts = lengths + np.int32(number)
            codes = engine.step(next_frames(np.array([1, 0]), starts, blocks, np.full(2, number), *sampling))
            sampled.append(codes.tolist())
    assert sampled[:2] == sampled[2:]
    assert len({str(codes) for codes in sampled}) == 2
