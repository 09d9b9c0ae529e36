"""The layout of CSM in Transformers (`CsmForConditionalGeneration`): config keys, tensor names, row order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from misotts.config import ConfigError, ModelConfig, TransformerConfig

CODEC = "codec_model."
"""Prefix of Mimi's tensors, which are in the same files as the language model's."""

AUDIO_EMBEDDINGS = ("backbone_model.embed_tokens.embed_audio_tokens.weight", "depth_decoder.model.embed_tokens.weight")
"""One table under two names; a file may contain either or both."""

_NAMES = {
    "embed_text_tokens.weight": "text_embeddings.weight",
    "depth_decoder.model.inputs_embeds_projector.weight": "projection.weight",
    "lm_head.weight": "codebook0_head.weight",
    "depth_decoder.codebooks_head.weight": "audio_head",
    **dict.fromkeys(AUDIO_EMBEDDINGS, "audio_embeddings.weight"),
}
_LAYER_NAMES = {
    "self_attn.q_proj.weight": "attn.q_proj.weight",
    "self_attn.k_proj.weight": "attn.k_proj.weight",
    "self_attn.v_proj.weight": "attn.v_proj.weight",
    "self_attn.o_proj.weight": "attn.output_proj.weight",
    "mlp.gate_proj.weight": "mlp.w1.weight",
    "mlp.down_proj.weight": "mlp.w2.weight",
    "mlp.up_proj.weight": "mlp.w3.weight",
    "input_layernorm.weight": "sa_norm.scale",
    "post_attention_layernorm.weight": "mlp_norm.scale",
}


def is_csm(names: Mapping[str, Any]) -> bool:
    """True if these are the tensors of a `CsmForConditionalGeneration`."""
    return any(name.startswith(("backbone_model.", "depth_decoder.")) for name in names)


def canonical_names(config: ModelConfig) -> dict[str, str]:
    """Map Transformers' name of every tensor to the canonical one."""
    names = dict(_NAMES)
    parts = (("backbone_model", "backbone", config.backbone), ("depth_decoder.model", "decoder", config.depth))
    for theirs, ours, sizes in parts:
        names[f"{theirs}.norm.weight"] = f"{ours}.norm.scale"
        for n in range(sizes.num_layers):
            names.update({f"{theirs}.layers.{n}.{a}": f"{ours}.layers.{n}.{b}" for a, b in _LAYER_NAMES.items()})
    return names


def interleaved_rows(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Permute the rows of a q or k projection [heads * head_dim, width] from Transformers' half-split RoPE pairs
    (x0, x[head_dim/2]), ... to torchtune's interleaved ones (x0, x1), ..."""
    pairs = weight.view(-1, 2, head_dim // 2, weight.shape[1])
    return pairs.transpose(1, 2).flatten(0, 2)


def config_from_csm(raw: Mapping[str, Any]) -> ModelConfig:
    """Build the configuration from Transformers' `config.json`. CSM-1B was trained without a space after the speaker
    tag. Our own key `mimi` gives the sizes of a codec that is not the published one.

    Raises:
        ConfigError: a key is missing or has an unsupported value.
    """
    try:
        depth = raw["depth_decoder_config"]
        return ModelConfig(
            text_vocab_size=raw["text_vocab_size"],
            audio_vocab_size=raw["vocab_size"],
            audio_num_codebooks=raw["num_codebooks"],
            backbone=_transformer(raw),
            depth=_transformer(depth),
            max_seq_len=raw.get("max_position_embeddings", 2048),
            speaker_space=False,
            mimi=raw.get("mimi", {}),
        )
    except KeyError as error:
        raise ConfigError(f"{error} is missing") from None


def _transformer(raw: Mapping[str, Any]) -> TransformerConfig:
    rope = raw.get("rope_parameters") or raw["rope_scaling"]
    original = rope["original_max_position_embeddings"]
    bounds = (original / rope["low_freq_factor"], original / rope["high_freq_factor"])
    if rope["rope_type"] != "llama3" or bounds != (8192, 2048):
        raise ConfigError(f"RoPE must be Llama 3's, scaled between wavelengths 2048 and 8192, got {rope}")
    config = TransformerConfig(
        num_layers=raw["num_hidden_layers"],
        embed_dim=raw["hidden_size"],
        num_heads=raw["num_attention_heads"],
        num_kv_heads=raw["num_key_value_heads"],
        intermediate_dim=raw["intermediate_size"],
        norm_eps=raw["rms_norm_eps"],
        rope_base=rope.get("rope_theta") or raw["rope_theta"],
        rope_scale_factor=rope["factor"],
    )
    if raw.get("head_dim", config.head_dim) != config.head_dim:
        raise ConfigError(f"head_dim must be {config.head_dim} (width / heads), got {raw['head_dim']}")
    return config
