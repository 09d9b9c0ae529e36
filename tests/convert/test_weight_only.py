"""The depth graph with matrices in 8 bits: what is stored, what is drawn, that it compiles, and how it is chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from benchmarks.depth_weights import compare
from convert.__main__ import app
from convert.depth import GRAPH, WEIGHTS, convert_depth
from convert.depth_weights import depth_shapes, depth_weight, is_matrix
from convert.weight_only import column_scales, round_columns
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.eight_bits import LARGEST, EightBits
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Limits
from misotts.engines.manifest import EngineError
from misotts.engines.onnx_depth import OnnxDepth
from misotts.generate.load import load_generator
from misotts.model.checkpoint import Checkpoint
from tests.engines.test_onnx_depth import ROUNDING, rows
from tests.support.depth_folders import bare_folder
from tests.support.tiny import tiny_config

KINDS: tuple[EightBits, ...] = ("int8", "fp8")
WORST: dict[EightBits, float] = {"int8": 0.5 / 127, "fp8": 2.0**-4}
"""Largest error of a stored value: of int8 by the column's largest magnitude, of fp8 (three bits behind the first) by
its own."""


def ignore(*_: object) -> None:
    pass


@pytest.mark.parametrize("stored", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_each_column_has_its_own_scale(stored: EightBits, dtype: torch.dtype) -> None:
    """Columns of very different size, one of them of zeros, are all kept as well as their scale allows."""
    torch.manual_seed(0)
    matrix = torch.randn(200, 6) * torch.tensor([1e-4, 1e-2, 1.0, 1e2, 1e4, 0.0])
    scales = column_scales(matrix, stored, dtype)
    kept = round_columns(matrix, scales, stored)
    error = (kept.float() * scales.float() - matrix).abs()
    size = matrix.abs().amax(dim=0) if stored == "int8" else matrix.abs() + matrix.abs().amax(dim=0) * 2.0**-14
    slack = 1.01 if dtype == torch.float32 else 1 + 1.01 * LARGEST[stored] * 2.0**-8  # the largest may be clamped
    assert (error <= size * WORST[stored] * slack).all()
    assert kept.float()[:, :5].abs().amax(dim=0).min() > 0.98 * LARGEST[stored], "the range is used"
    assert (kept.float()[:, 5] == 0).all()


def with_weights_as_stored(folder: Path, stored: EightBits) -> dict[str, torch.Tensor]:
    """The file's tensors with each matrix multiplied out: what the engine is to compute with."""
    tensors = load_file(folder / WEIGHTS)
    return {
        name: tensor.float() * tensors[f"{name}.scales"] if f"{name}.scales" in tensors else tensor
        for name, tensor in tensors.items()
        if not name.endswith(".scales")
    }


@pytest.mark.parametrize("stored", KINDS)
def test_it_draws_what_full_precision_draws_with_the_stored_weights(tmp_path: Path, stored: EightBits) -> None:
    """The quantised graph against the plain graph, with the rounded weights written into the plain graph's file."""
    config = tiny_config()
    model = bare_folder(tmp_path, config)
    weights = Checkpoint(model, config)
    rounded = with_weights_as_stored(convert_depth(model, torch.float32, ignore, stored), stored)
    plain = convert_depth(model, torch.float32, ignore)
    exact = load_file(plain / WEIGHTS)
    assert any(not torch.equal(rounded[name], exact[name]) for name in exact)
    data = bytearray((plain / WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name, tensor in rounded.items():
        first, last = header[name]["data_offsets"]
        data[start + first : start + last] = tensor.contiguous().numpy().tobytes()
    (plain / WEIGHTS).write_bytes(data)
    ours, expected = OnnxDepth(model, weights, config, stored), OnnxDepth(model, weights, config)
    for seed in range(10):
        codes, embedding = ours.forward(*rows(5, config, seed))
        wanted, wanted_embedding = expected.forward(*rows(5, config, seed))
        assert torch.equal(codes, wanted)
        torch.testing.assert_close(embedding, wanted_embedding, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("stored", KINDS)
def test_matrices_alone_are_stored_in_8_bits(tmp_path: Path, stored: EightBits) -> None:
    config = tiny_config()
    model = bare_folder(tmp_path, config)
    folder = convert_depth(model, torch.bfloat16, ignore, stored)
    assert folder.name == f"depth-onnx-{stored}-bfloat16"
    assert json.loads((folder / "manifest.json").read_text())["matrices"] == stored
    onnx.checker.check_model(folder / GRAPH)
    tensors, source = load_file(folder / WEIGHTS), Checkpoint(model, config)
    for name in depth_shapes(config):
        exact = depth_weight(name, source, config)
        if is_matrix(name):
            assert tensors[name].element_size() == 1
            assert tensors[f"{name}.scales"].shape == exact.shape[1:]
        else:
            assert torch.equal(tensors[name], exact.bfloat16())
    assert {name for name in tensors if not name.endswith(".scales")} == set(depth_shapes(config))


def test_agreement_is_between_nothing_and_everything(tmp_path: Path) -> None:
    """Shared noise and given codes: int8 is close, fp8 less so, neither is full precision."""
    config = replace(tiny_config(), audio_vocab_size=67)
    model = bare_folder(tmp_path, config)
    torch.manual_seed(0)
    figures = compare(model, torch.randn(100, config.backbone.embed_dim))
    for each in figures.values():
        assert len(each.greedy.codebooks) == config.audio_num_codebooks
        assert 0.5 < each.greedy.mean <= 1
        assert 0.8 < each.shared.mean < 1
    assert figures["int8"].shared.mean > figures["fp8"].shared.mean


def test_kinds_live_side_by_side_and_are_chosen_by_name(tmp_path: Path) -> None:
    config = tiny_config()
    model = bare_folder(tmp_path, config)
    with pytest.raises(EngineError, match=r"no engine at .*depth-onnx-int8-float32; .* --weights int8"):
        load_generator(model, config, Limits(), depth="onnx-int8")
    run = CliRunner().invoke(app, ["depth", str(model), "--weights", "int8"])
    assert run.exit_code == 0, run.output
    convert_depth(model, torch.float32, ignore)
    for depth in ("onnx-int8", "onnx"):
        load_generator(model, config, Limits(), depth=depth)
    manifest = model / "engines" / "depth-onnx-int8-float32" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "matrices": None}))
    with pytest.raises(EngineError, match="has matrices None, here it is int8"):
        load_generator(model, config, Limits(), depth="onnx-int8")


@pytest.mark.parametrize("stored", KINDS)
def test_it_compiles_for_sm89(tmp_path: Path, stored: EightBits) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX: pip install 'misotts-serving[rtx]'")
    from build.depth import build_depth

    model = bare_folder(tmp_path, tiny_config())
    convert_depth(model, torch.bfloat16, ignore, stored)
    folder = build_depth(model, torch.bfloat16, 4, "8.9", ignore, stored)
    assert folder.name == f"depth-tensorrt-{stored}-bfloat16"
    assert json.loads((folder / "manifest.json").read_text())["matrices"] == stored


def test_torch_is_the_reference_that_int8_comes_close_to(tmp_path: Path) -> None:
    """Greedy, first codebook: no earlier code can have differed."""
    config = tiny_config()
    model = bare_folder(tmp_path, config)
    convert_depth(model, torch.float32, ignore, "int8")
    weights = Checkpoint(model, config)
    hidden, sampling = rows(200, config)
    greedy = replace(sampling, top_k=torch.ones_like(sampling.top_k))
    expected, _ = TorchDepth(weights, config, Embedding(weights, config)).forward(hidden, greedy)
    found, _ = OnnxDepth(model, weights, config, "int8").forward(hidden, greedy)
    assert np.mean(found[:, 0].numpy() == expected[:, 0].numpy()) > 0.9
