"""The layout of CSM in Transformers (`CsmForConditionalGeneration`): config keys, tensor names, row order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta, Struct

from misotts.config import (
    ConfigError,
    Context,
    Epsilon,
    Layers,
    MimiConfig,
    ModelConfig,
    RopeBase,
    RopeScale,
    Size,
    TransformerConfig,
    Vocabulary,
)
from misotts.files import validated

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


class Rope(Struct, frozen=True, forbid_unknown_fields=True):
    """`rope_parameters`, or `rope_scaling` of older releases of Transformers."""

    rope_type: Literal["llama3"]
    factor: RopeScale
    low_freq_factor: Annotated[float, Meta(gt=0, le=1e6)]
    high_freq_factor: Annotated[float, Meta(gt=0, le=1e6)]
    original_max_position_embeddings: Size
    rope_theta: RopeBase | None = None

    def __post_init__(self) -> None:
        original = self.original_max_position_embeddings
        if (original / self.low_freq_factor, original / self.high_freq_factor) != (8192, 2048):
            raise ConfigError(f"must be Llama 3's RoPE, scaled between wavelengths 2048 and 8192, got {self}")


class CsmTransformer(Struct, frozen=True, kw_only=True):
    """Keys of one transformer. Further keys are those of Transformers' that do not concern what it computes."""

    num_hidden_layers: Layers
    hidden_size: Size
    num_attention_heads: Size
    num_key_value_heads: Size
    intermediate_size: Size
    rms_norm_eps: Epsilon = 1e-5
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    rope_theta: RopeBase | None = None
    head_dim: Size | None = None
    hidden_act: Literal["silu"] = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False

    def sizes(self) -> TransformerConfig:
        """Return the sizes. Raises ConfigError if this is not the model's architecture."""
        rope = self.rope_parameters or self.rope_scaling
        if rope is None:
            raise ConfigError("rope_parameters or rope_scaling must be Llama 3's RoPE, got null")
        base = rope.rope_theta if self.rope_theta is None else self.rope_theta
        if base is None:
            raise ConfigError("rope_theta is missing")
        if rope.rope_theta not in (None, base):
            raise ConfigError(f"rope_theta is {base:g}, but that of the RoPE's parameters is {rope.rope_theta:g}")
        if self.attention_bias or self.mlp_bias:
            raise ConfigError(f"{'attention_bias' if self.attention_bias else 'mlp_bias'} must be false, got true")
        config = TransformerConfig(
            num_layers=self.num_hidden_layers,
            embed_dim=self.hidden_size,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads,
            intermediate_dim=self.intermediate_size,
            norm_eps=self.rms_norm_eps,
            rope_base=base,
            rope_scale_factor=rope.factor,
        )
        if self.head_dim not in (None, config.head_dim):
            raise ConfigError(f"head_dim must be {config.head_dim} (width / heads), got {self.head_dim}")
        return config


class CsmDepth(CsmTransformer, frozen=True, kw_only=True):
    """Keys of the depth decoder; those of the whole model are repeated."""

    num_codebooks: Size | None = None
    vocab_size: Vocabulary | None = None
    backbone_hidden_size: Size | None = None


class CsmConfig(CsmTransformer, frozen=True, kw_only=True):
    """Transformers' `config.json` of CSM: the backbone's keys stand beside those of the whole model."""

    text_vocab_size: Vocabulary
    vocab_size: Vocabulary
    num_codebooks: Size
    depth_decoder_config: CsmDepth
    max_position_embeddings: Context = 2048
    mimi: MimiConfig = MimiConfig()


def config_from_csm(raw: Mapping[str, Any]) -> ModelConfig:
    """Build the configuration from Transformers' `config.json`. CSM-1B was trained without a space after the speaker
    tag. Our own key `mimi` gives the sizes of a codec that is not the published one.

    Raises:
        ConfigError: one line that names the key, what is allowed and what came.
    """
    csm = validated(raw, CsmConfig)
    whole = {
        "num_codebooks": csm.num_codebooks,
        "vocab_size": csm.vocab_size,
        "backbone_hidden_size": csm.hidden_size,
    }
    try:
        depth = csm.depth_decoder_config.sizes()
        for name, value in whole.items():
            if (found := getattr(csm.depth_decoder_config, name)) not in (None, value):
                raise ConfigError(f"{name} must be the whole model's, {value}, got {found}")
    except ConfigError as error:
        raise ConfigError(f"depth_decoder_config: {error}") from None
    return ModelConfig(
        text_vocab_size=csm.text_vocab_size,
        audio_vocab_size=csm.vocab_size,
        audio_num_codebooks=csm.num_codebooks,
        backbone=csm.sizes(),
        depth=depth,
        max_seq_len=csm.max_position_embeddings,
        speaker_space=False,
        mimi=csm.mimi,
    )
