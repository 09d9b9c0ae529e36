"""Every published layout gives the same weights, and an error lists every fault of a bad checkpoint."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.csm_peer import make_peer, peer_config, peer_state
from misotts.config import FLAVORS, ConfigError, ModelConfig, TransformerConfig
from misotts.model.checkpoint import Checkpoint, tensor_shapes
from misotts.model.csm_layout import config_from_csm
from misotts.model.weight_files import CheckpointError, open_weights, save_weights
from tests.support.models import SIZES_8B, TINY, tiny_config, tiny_weights

CONFIG = tiny_config()
Tensors = dict[str, torch.Tensor]


def equal(found: Checkpoint, expected: Tensors) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


def one_file(folder: Path, weights: Tensors) -> Path:
    save_file(weights, folder / "model.safetensors")
    return folder


def sharded(folder: Path, weights: Tensors) -> Path:
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def pickled(wrapper: str | None, prefix: str) -> Callable[[Path, Tensors], Path]:
    def write(folder: Path, weights: Tensors) -> Path:
        state = {prefix + name: tensor for name, tensor in weights.items()}
        everything = {wrapper: state, "optimizer": {"lr": 1e-4, "state": {}}, "step": 17} if wrapper else state
        torch.save(everything, folder / "model.pt")
        return folder / "model.pt"

    return write


LAYOUTS = {
    "one file": one_file,
    "sharded": sharded,
    "bare pickle": pickled(None, ""),
    "pickle under state_dict": pickled("state_dict", ""),
    "pickle under model_state_dict": pickled("model_state_dict", "module."),
    "pickle under model": pickled("model", "module."),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_weights(
    write: Callable[[Path, Tensors], Path], dtype: torch.dtype, tmp_path: Path
) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in tiny_weights().items()}
    assert equal(Checkpoint(write(tmp_path, weights), CONFIG), weights)


@pytest.mark.parametrize("shard_size", ["1GB", "10KB"])
def test_transformers_files_give_the_same_weights(shard_size: str, tmp_path: Path) -> None:
    """Transformers itself writes the files, whole and sharded. The codec's tensors in them are ignored."""
    weights = tiny_weights()
    make_peer(weights, CONFIG).save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "10KB")
    assert equal(Checkpoint(tmp_path, CONFIG), weights)


def test_the_two_audio_tables_of_transformers_must_be_equal(tmp_path: Path) -> None:
    weights = tiny_weights()
    state = {name: tensor.clone() for name, tensor in peer_state(weights, CONFIG).items()}
    save_file(state, tmp_path / "model.safetensors")
    assert equal(Checkpoint(tmp_path, CONFIG), weights)
    state["depth_decoder.model.embed_tokens.weight"][5, 5] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="must be one table"):
        Checkpoint(tmp_path, CONFIG)


def test_transformers_config_gives_the_same_sizes() -> None:
    raw = json.loads(peer_config(CONFIG).to_json_string())
    assert config_from_csm({**raw, "mimi": TINY["mimi"]}) == tiny_config(speaker_space=False)


def test_the_published_config_of_csm_1b_is_read() -> None:
    """The published file describes RoPE with older keys."""
    rope = dict(rope_type="llama3", factor=32.0)
    depth = dict(
        hidden_size=1024,
        intermediate_size=8192,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_theta=500000,
        rope_scaling=dict(
            rope, low_freq_factor=0.001953125, high_freq_factor=0.0078125, original_max_position_embeddings=16
        ),
    )
    raw: dict[str, Any] = dict(
        text_vocab_size=128256,
        vocab_size=2051,
        num_codebooks=32,
        max_position_embeddings=2048,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        rms_norm_eps=1e-5,
        rope_theta=500000,
        rope_scaling=dict(rope, low_freq_factor=0.125, high_freq_factor=0.5, original_max_position_embeddings=1024),
        depth_decoder_config=depth,
    )
    config = config_from_csm(raw)
    assert config.backbone == TransformerConfig(**FLAVORS["llama-1B"])
    assert config.depth == TransformerConfig(**FLAVORS["llama-100M"])
    assert not config.speaker_space
    other = dict(raw, rope_scaling=dict(raw["rope_scaling"], original_max_position_embeddings=8192))
    with pytest.raises(ConfigError, match="RoPE"):
        config_from_csm(other)
    del raw["depth_decoder_config"]
    with pytest.raises(ConfigError, match="depth_decoder_config"):
        config_from_csm(raw)


def test_one_error_lists_all_faults(tmp_path: Path) -> None:
    weights = tiny_weights()
    del weights["backbone.norm.scale"]
    weights["projection.weight"] = torch.zeros(5, 5)
    weights["decoder.norm.scale"] = weights["decoder.norm.scale"].double()
    weights["lora.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(one_file(tmp_path, weights), CONFIG)
    for fault in (
        "missing: backbone.norm.scale [48]",
        "unexpected: lora.weight [2]",
        "wrong shape: projection.weight is [5, 5], config.json asks for [32, 48]",
        "wrong type: decoder.norm.scale is torch.float64",
    ):
        assert fault in str(caught.value)


def test_files_of_other_formats_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    good = (one_file(whole, tiny_weights()) / "model.safetensors").read_bytes()
    pickle_bytes = pickled(None, "")(tmp_path, tiny_weights()).read_bytes()
    torch.save({"weights": Path("x")}, tmp_path / "code.pt")
    torch.save({"lr": 0.1}, tmp_path / "no_state.pt")
    contents = {
        "cut.safetensors": good[:-1],
        "header.safetensors": good[:20],
        "empty.safetensors": b"",
        "page.safetensors": b"<!doctype html><title>404</title>" * 9,
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "cut.pt": pickle_bytes[: len(pickle_bytes) // 2],
        "empty.pt": b"",
        "no_index.json": b"{}",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in [*contents, "code.pt", "no_state.pt", "not_there.pt"]:
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            open_weights(tmp_path / name)
    with pytest.raises(CheckpointError, match="no weights at"):
        open_weights(tmp_path)


def test_one_error_lists_all_bad_shards(tmp_path: Path) -> None:
    sharded(tmp_path, tiny_weights())
    first, second = sorted(tmp_path.glob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-5])
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(tmp_path, CONFIG)
    assert f"{first.name} is missing" in str(caught.value)
    assert f"{second.name} is truncated" in str(caught.value)


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    weights = {f"t{n}": torch.randn(3, n).to(dtype) for n, dtype in enumerate((torch.float32, torch.bfloat16) * 3, 1)}
    weights["transposed"] = torch.randn(4, 5).T
    weights["scalar"] = torch.tensor(2.5)
    sizes: list[int] = []
    save_weights(tmp_path / "x.safetensors", weights, sizes.append)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert sizes == [tensor.nbytes for tensor in weights.values()]


def test_the_8b_models_names_and_shapes() -> None:
    """Check every tensor of the full-size model without allocating it."""
    config = ModelConfig.from_dict({**SIZES_8B, "backbone_flavor": "llama-8B", "decoder_flavor": "llama-300M"})
    shapes = tensor_shapes(config)
    assert len(shapes) == 367
    assert shapes["text_embeddings.weight"] == (128256, 4096)
    assert shapes["audio_embeddings.weight"] == (65632, 4096)
    assert shapes["projection.weight"] == (1536, 4096)
    assert shapes["codebook0_head.weight"] == (2051, 4096)
    assert shapes["audio_head"] == (31, 1536, 2051)
    assert shapes["backbone.layers.31.attn.k_proj.weight"] == (1024, 4096)
    assert shapes["backbone.layers.31.mlp.w2.weight"] == (4096, 14336)
    assert shapes["decoder.layers.7.attn.q_proj.weight"] == (1536, 1536)
    assert shapes["decoder.layers.7.attn.v_proj.weight"] == (384, 1536)
    assert shapes["decoder.layers.7.mlp.w3.weight"] == (6912, 1536)

    def parameters(prefix: str) -> int:
        return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))

    assert round(parameters("backbone.layers") / 1e9, 2) == 6.98
    assert round(parameters("decoder.layers") / 1e6) == 302
    assert round(parameters("audio_head") / 1e6, 1) == 97.7
    with torch.device("meta"):  # Transformers' model of that size has exactly these tensors
        peer = make_peer({name: torch.empty(shape) for name, shape in shapes.items()}, config)
    mine = {name: tensor for name, tensor in peer.state_dict().items() if not name.startswith("codec_model.")}
    assert sum(t.numel() for t in mine.values()) == sum(map(math.prod, shapes.values())) + 65632 * 4096


def test_a_configuration_keeps_its_sampling_defaults() -> None:
    config = tiny_config(sampling={"temperature": 0, "top_k": 16})
    assert ModelConfig.from_dict(config.to_dict()) == config
