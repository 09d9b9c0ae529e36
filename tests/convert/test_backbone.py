"""The backbone as a TensorRT-LLM checkpoint: names and shapes are the documented ones, and the ranks' tensors, joined
and permuted back, are the source's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.backbone import checkpoint_layout, convert_backbone
from misotts.config import ConfigError, ModelConfig
from misotts.engines.manifest import dtype_name
from misotts.engines.table import Variant
from misotts.model.checkpoint import tensor_shapes
from misotts.model.csm_layout import interleaved_rows
from misotts.model.weight_files import CheckpointError
from tests.support.models import MISO_8B, TINY, bare_folder, ignore, tiny_config, tiny_weights

Weights = dict[str, torch.Tensor]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return bare_folder(tmp_path / "model")


@pytest.mark.parametrize(
    ("ranks", "qkv", "dense", "inner"), [(1, 6144, 4096, 14336), (2, 3072, 2048, 7168), (4, 1536, 1024, 3584)]
)
def test_names_and_shapes_of_the_8b_model(ranks: int, qkv: int, dense: int, inner: int) -> None:
    """Names and shapes are those of TensorRT-LLM's Llama: see docs/engines-backbone.md. No tensor is allocated."""
    layer = {
        "attention.qkv.weight": (qkv, 4096),
        "attention.dense.weight": (4096, dense),
        "mlp.fc.weight": (inner, 4096),
        "mlp.gate.weight": (inner, 4096),
        "mlp.proj.weight": (4096, inner),
        "input_layernorm.weight": (4096,),
        "post_layernorm.weight": (4096,),
    }
    wanted = {f"transformer.layers.{n}.{name}": shape for n in range(32) for name, shape in layer.items()}
    wanted["transformer.ln_f.weight"] = (4096,)
    layouts = checkpoint_layout(MISO_8B, Variant(ranks=ranks))
    assert len(layouts) == ranks
    for layout in layouts:
        assert {name: tuple(tensor.shape) for name, tensor in layout.items()} == wanted
        assert {(tensor.dtype, tensor.device.type) for tensor in layout.values()} == {(torch.bfloat16, "meta")}


def join(shards: list[Weights], config: ModelConfig) -> Weights:
    """Join the ranks' tensors to one checkpoint with the source's names."""
    sizes = config.backbone
    ranks = len(shards)
    copies = max(ranks // sizes.num_kv_heads, 1)  # ranks with the same key head
    heads = [max(count // ranks, 1) * sizes.head_dim for count in (sizes.num_heads, *2 * [sizes.num_kv_heads])]
    whole = {"backbone.norm.scale": shards[0]["transformer.ln_f.weight"]}
    for n in range(sizes.num_layers):

        def read(name: str, n: int = n) -> list[torch.Tensor]:
            return [shard[f"transformer.layers.{n}.{name}.weight"] for shard in shards]

        q, k, v = zip(*(part.split(heads) for part in read("attention.qkv")), strict=True)
        layer = {
            "attn.q_proj.weight": interleaved_rows(torch.cat(q), sizes.head_dim),
            "attn.k_proj.weight": interleaved_rows(torch.cat(k[::copies]), sizes.head_dim),
            "attn.v_proj.weight": torch.cat(v[::copies]),
            "attn.output_proj.weight": torch.cat(read("attention.dense"), dim=1),
            "mlp.w1.weight": torch.cat(read("mlp.fc")),
            "mlp.w3.weight": torch.cat(read("mlp.gate")),
            "mlp.w2.weight": torch.cat(read("mlp.proj"), dim=1),
            "sa_norm.scale": read("input_layernorm")[-1],
            "mlp_norm.scale": read("post_layernorm")[-1],
        }
        whole.update({f"backbone.layers.{n}.{name}": tensor for name, tensor in layer.items()})
        assert all(torch.equal(k[0], other) for other in k[:copies])
    return whole


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("ranks", "num_kv_heads"), [(1, 2), (2, 2), (4, 2), (4, 4)])
def test_the_ranks_joined_are_the_source(tmp_path: Path, dtype: torch.dtype, ranks: int, num_kv_heads: int) -> None:
    sizes = dict(num_layers=2, embed_dim=48, num_heads=4, num_kv_heads=num_kv_heads, intermediate_dim=40)
    config = tiny_config(backbone=sizes)
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "backbone": sizes}))
    torch.manual_seed(2)
    source = {name: torch.randn(shape) for name, shape in tensor_shapes(config).items()}
    save_file(source, tmp_path / "model.safetensors")
    progress: list[tuple[int, int]] = []
    variant = Variant(dtype=dtype_name(dtype), ranks=ranks)
    folder = convert_backbone(tmp_path, variant, lambda *news: progress.append(news))
    names = {f"rank{rank}.safetensors" for rank in range(ranks)}
    assert {path.name for path in folder.iterdir()} == {"config.json", "manifest.json", *names}
    shards = [load_file(folder / f"rank{rank}.safetensors") for rank in range(ranks)]
    whole = join(shards, config)
    wanted = {name: tensor.to(dtype) for name, tensor in source.items() if name.startswith("backbone.")}
    assert whole.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(whole[name], wanted[name])] == []
    assert progress[-1][0] == progress[-1][1] == sum(tensor.nbytes for shard in shards for tensor in shard.values())


def test_the_config_has_what_the_tensors_do_not_show(model: Path) -> None:
    folder = convert_backbone(model, Variant(dtype="float16", ranks=2), ignore)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "MisoBackbone"
    assert config["dtype"] == "float16"
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_size"]) == (6, 2, 8)
    assert (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]) == (48, 40, 2)
    assert config["position_embedding_type"] == "rope_gpt_neox"
    assert config["rotary_base"] == 500_000
    assert config["rotary_scaling"] == {
        "type": "llama3",
        "factor": 32,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": 8192,
    }
    assert config["max_position_embeddings"] == 64
    assert config["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1}
    assert config["quantization"] == {"quant_algo": None, "kv_cache_quant_algo": None}


def test_a_checkpoint_that_is_up_to_date_is_not_written_again(model: Path) -> None:
    progress: list[int] = []
    folder = convert_backbone(model, Variant(), ignore)
    assert convert_backbone(model, Variant(), lambda written, total: progress.append(written)) == folder
    assert not progress
    bare_folder(model, seed=1)
    convert_backbone(model, Variant(), lambda written, total: progress.append(written))
    assert progress
    again = load_file(folder / "rank0.safetensors")["transformer.layers.0.mlp.fc.weight"]
    assert torch.equal(again, tiny_weights(seed=1)["backbone.layers.0.mlp.w1.weight"].bfloat16())


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_a_weight_that_the_type_cannot_represent_is_refused(model: Path, value: float) -> None:
    weights = tiny_weights()
    weights["backbone.layers.1.mlp.w2.weight"][3, 3] = value
    save_file(weights, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.w2\.weight .* NaN"):
        convert_backbone(model, Variant(dtype="float16"), ignore)
    assert not any((model / "engines").iterdir())


def test_heads_that_cannot_be_split_are_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="num_heads 6 cannot be split over 4 ranks"):
        convert_backbone(model, Variant(ranks=4), ignore)
    with pytest.raises(ConfigError, match=r"num_kv_heads 2 .* 3 ranks"):
        checkpoint_layout(tiny_config(backbone={**TINY["backbone"], "intermediate_dim": 42}), Variant(ranks=3))
