"""8-bit weights of the graph engine: their rounding error, their effect on codes, and the options that select them."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from benchmarks.agreement import Agreement, compare, make_prompts, record
from misotts.config import ModelConfig
from misotts.engines.graph.matrix import Matrix
from misotts.engines.interface import Limits
from misotts.engines.load import load_engine
from misotts.engines.table import EngineChoice, KvType, WeightType, check_engines
from misotts.model.checkpoint import Checkpoint
from misotts.serve.launcher import ServeError, serve
from misotts.serve.settings import ServeOptions


@pytest.mark.parametrize(("weight_type", "error"), [("full", 2e-3), ("int8", 1.6e-2), ("fp8", 3.2e-2)])
def test_the_rounding_error_of_each_type(weight_type: WeightType, error: float) -> None:
    """It is relative to the row's size, and a row of zeros stays zero."""
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-6, 3, 64).unsqueeze(1)
    weight[3] = 0
    norm = torch.rand(512, generator=torch.Generator().manual_seed(1)) + 0.5
    matrix = Matrix.make(weight, torch.bfloat16, weight_type, norm)
    real = matrix.weight.float() * (1 if matrix.scale is None else matrix.scale.unsqueeze(1))
    wanted = weight * norm
    assert real[3].eq(0).all()
    kept = wanted.norm(dim=1) > 0
    off = ((real - wanted).norm(dim=1) / wanted.norm(dim=1))[kept]
    assert error / 4 < float(off.max()) < error


@pytest.fixture(scope="module")
def agreements(demo_folder: Path) -> dict[tuple[WeightType, KvType], Agreement]:
    config = ModelConfig.load(demo_folder)
    weights, prompts = Checkpoint(demo_folder, config), make_prompts(config, 8, 60)
    reference = record(weights, config, prompts, frames=4)
    found = {}
    kinds: list[tuple[WeightType, KvType]] = [("full", "full"), ("int8", "full"), ("fp8", "full"), ("full", "fp8")]
    for weight_type, kv_type in kinds:
        other = record(weights, config, prompts, 4, "cpu", weight_type, kv_type, reference.sampled)
        found[weight_type, kv_type] = compare(reference, other)
    return found


def test_the_share_of_equal_codes_of_each_type(agreements: dict[tuple[WeightType, KvType], Agreement]) -> None:
    for kind, agreement in agreements.items():
        print(kind, agreement)
    same = agreements["full", "full"]
    assert same.likeliest == 1.0
    assert same.overlap > 0.99999
    int8, fp8, fp8_kv = agreements["int8", "full"], agreements["fp8", "full"], agreements["full", "fp8"]
    assert (int8.overlap > 0.96, fp8.overlap > 0.85, fp8_kv.overlap > 0.97) == (True, True, True)
    assert int8.likeliest > fp8.likeliest > 0.8
    assert fp8_kv.likeliest > 0.95


@pytest.mark.parametrize("weights", get_args(WeightType))
@pytest.mark.parametrize("kv_type", get_args(KvType))
def test_every_combination_is_loaded(demo_folder: Path, weights: WeightType, kv_type: KvType) -> None:
    choice = EngineChoice("graph", weights, kv_type)
    check_engines(demo_folder, choice, 2)
    load_engine(demo_folder, ModelConfig.load(demo_folder), Limits(max_streams=2), choice)


def test_the_depth_decoder_is_part_of_it(demo_folder: Path) -> None:
    with pytest.raises(ServeError, match=r"--backbone graph .* --depth torch"):
        serve(ServeOptions(model=demo_folder, engines=EngineChoice("graph", "int8", depth="torch")))
