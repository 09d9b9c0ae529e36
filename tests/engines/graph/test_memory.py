"""The plan of a GPU's memory: its sums, and the numbers in refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from misotts.config import ConfigError
from misotts.engines.graph.engine import bucket_shapes
from misotts.engines.graph.load import load_graph_engine
from misotts.engines.graph.memory import block_bytes, plan_memory, weight_bytes
from misotts.engines.interface import Limits
from misotts.engines.table import EngineChoice, KvType, WeightType
from tests.support.models import MISO_8B, tiny_config, tiny_weights

GIB = 2**30


@pytest.mark.parametrize("kv_type", ["full", "fp8"])
@pytest.mark.parametrize("weight_type", ["full", "fp8", "int8"])
def test_the_plan_has_the_sizes_of_the_loaded_tensors(weight_type: WeightType, kv_type: KvType) -> None:
    """In float32 on the CPU an activation has 4 bytes; on a GPU it has 2."""
    config, choice = tiny_config(), EngineChoice("graph", weight_type, kv_type)
    engine = load_graph_engine(tiny_weights(), config, Limits(), choice, None, "cpu")
    embedding, backbone, depth = engine.embedding, engine.backbone, engine.depth
    matrices = [depth._head0, *depth._heads, depth._projection]
    matrices += [matrix for layer in [*backbone.layers, *depth.layers] for matrix in vars(layer).values()]
    loaded = embedding.text_table.nbytes + embedding.audio_table.nbytes + backbone._norm.nbytes
    loaded += sum(m.weight.nbytes + (m.scale.nbytes if m.scale is not None else 0) for m in matrices)
    loaded += sum(table.nbytes for table in depth._inputs)
    assert weight_bytes(config, weight_type, width=4) == loaded
    pool = backbone._pool.numel() * (1 if kv_type == "fp8" else 2)
    scales = backbone._scales.numel() * 4 if backbone._scales is not None else 0
    assert engine.num_blocks * block_bytes(config.backbone, kv_type) == pool + scales


@settings(max_examples=60, deadline=None)
@given(
    free=st.integers(0, 200 * GIB),
    streams=st.integers(1, 300),
    weight_type=st.sampled_from(["full", "fp8", "int8"]),
    kv_type=st.sampled_from(["full", "fp8"]),
    kv_memory=st.none() | st.integers(0, 100 * GIB),
)
def test_a_plan_fits_and_holds_an_utterance_or_is_refused(
    free: int, streams: int, weight_type: WeightType, kv_type: KvType, kv_memory: int | None
) -> None:
    limits = Limits(max_streams=streams)
    options = len(bucket_shapes(streams, MISO_8B.audio_codes)), weight_type, kv_type, kv_memory
    try:
        plan = plan_memory(MISO_8B, limits, free, *options)
    except ConfigError:
        if kv_memory is None:  # then 300 GiB more are enough
            assert plan_memory(MISO_8B, limits, free + 300 * GIB, *options).blocks > 64
        return
    assert plan.unused >= 0
    assert plan.pool == plan.blocks * block_bytes(MISO_8B.backbone, kv_type)
    assert 1 + 64 <= plan.blocks <= 1 + 64 * streams
    assert kv_memory is None or plan.pool <= kv_memory


def test_the_8b_on_an_80_gb_gpu() -> None:
    plan = plan_memory(MISO_8B, Limits(max_streams=64), 78 * GIB, 14)
    assert 15.9 < plan.weights / 1e9 < 18.5  # 13.96 GB of backbone, 0.62 of decoder, tables and heads
    assert plan.pool == (1 + 64 * 64) * 32 * 131072  # the most that 64 utterances of 2048 positions need
    line = str(plan)
    assert "\n" not in line
    assert "78.00 GiB free = weights 15.43 GiB" in line
    assert f"({plan.blocks} blocks)" in line
    assert plan_memory(MISO_8B, Limits(max_streams=64), 24 * GIB, 14).blocks < plan.blocks


def test_a_gpu_that_is_too_small_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"16\.00 GiB are free; 17\.30 GiB are needed: weights 15\.43 GiB, .*"):
        plan_memory(MISO_8B, Limits(max_streams=16), 16 * GIB, 10)
    assert plan_memory(MISO_8B, Limits(max_streams=16), 16 * GIB, 10, "int8").blocks > 64
    with pytest.raises(ConfigError, match=r"--kv-memory is 102\.39 MiB; at least 260\.00 MiB are needed"):
        plan_memory(MISO_8B, Limits(), 78 * GIB, 10, kv_memory=GIB // 10)


def test_fp8_keys_and_values_have_half_the_bytes_and_a_scale() -> None:
    assert block_bytes(MISO_8B.backbone, "full") == 32 * 131072
    assert block_bytes(MISO_8B.backbone, "fp8") == 32 * 131072 * (128 + 4) // 256
    assert torch.float8_e4m3fn.itemsize == 1
