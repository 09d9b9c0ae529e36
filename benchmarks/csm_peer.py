"""Transformers' `CsmForConditionalGeneration` with our weights: the peer in tests and benchmarks.

The mapping of names and the permutation are independent of the library's own (`misotts.model.csm_layout`), so that each
checks the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import CsmConfig, CsmDepthDecoderConfig, CsmForConditionalGeneration
from transformers.models.mimi import MimiConfig

from misotts.config import ModelConfig, TransformerConfig

TINY_CODEC: dict[str, Any] = dict(
    num_filters=4, hidden_size=16, upsample_groups=16, num_hidden_layers=1, num_attention_heads=2
)
"""The peer needs a codec, which is not used."""


def peer_config(config: ModelConfig) -> CsmConfig:
    shared: dict[str, Any] = dict(num_codebooks=config.audio_num_codebooks, vocab_size=config.audio_vocab_size)
    # Transformers wants an original context below the maximal one; factors scaled alike have the same effect.
    depth = CsmDepthDecoderConfig(
        backbone_hidden_size=config.backbone.embed_dim, **shared, **_sizes(config.depth, original_context=16)
    )
    return CsmConfig(
        text_vocab_size=config.text_vocab_size,
        max_position_embeddings=config.max_seq_len,
        depth_decoder_config=depth.to_dict(),
        codec_config=MimiConfig(**TINY_CODEC).to_dict(),
        pad_token_id=0,
        bos_token_id=0,
        audio_token_id=1,
        audio_eos_token_id=2,
        **shared,
        **_sizes(config.backbone, original_context=1024),
    )


def _sizes(c: TransformerConfig, original_context: int) -> dict[str, Any]:
    return dict(
        num_hidden_layers=c.num_layers,
        hidden_size=c.embed_dim,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        intermediate_size=c.intermediate_dim,
        rms_norm_eps=c.norm_eps,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": c.rope_base,
            "factor": c.rope_scale_factor,
            "low_freq_factor": original_context / 8192,
            "high_freq_factor": 4 * original_context / 8192,
            "original_max_position_embeddings": original_context,
        },
    )


def peer_state(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Return our weights under the peer's names, q and k rows in its order."""
    audio = weights["audio_embeddings.weight"]
    state = {
        "embed_text_tokens.weight": weights["text_embeddings.weight"],
        "backbone_model.embed_tokens.embed_audio_tokens.weight": audio,
        "depth_decoder.model.embed_tokens.weight": audio,
        "depth_decoder.model.inputs_embeds_projector.weight": weights["projection.weight"],
        "lm_head.weight": weights["codebook0_head.weight"],
        "depth_decoder.codebooks_head.weight": weights["audio_head"],
    }
    for ours, theirs, sizes in (
        ("backbone", "backbone_model", config.backbone),
        ("decoder", "depth_decoder.model", config.depth),
    ):
        state[f"{theirs}.norm.weight"] = weights[f"{ours}.norm.scale"]
        for n in range(sizes.num_layers):
            layer, peer_layer = f"{ours}.layers.{n}", f"{theirs}.layers.{n}"
            for name, peer_name in {
                "attn.v_proj.weight": "self_attn.v_proj.weight",
                "attn.output_proj.weight": "self_attn.o_proj.weight",
                "mlp.w1.weight": "mlp.gate_proj.weight",
                "mlp.w2.weight": "mlp.down_proj.weight",
                "mlp.w3.weight": "mlp.up_proj.weight",
                "sa_norm.scale": "input_layernorm.weight",
                "mlp_norm.scale": "post_attention_layernorm.weight",
            }.items():
                state[f"{peer_layer}.{peer_name}"] = weights[f"{layer}.{name}"]
            for part in ("q", "k"):
                weight = weights[f"{layer}.attn.{part}_proj.weight"]
                state[f"{peer_layer}.self_attn.{part}_proj.weight"] = weight[half_split_rows(len(weight), sizes)]
    return state


def half_split_rows(rows: int, config: TransformerConfig) -> list[int]:
    """Return the interleaved row of each half-split row: of every head, first the even rows, then the odd ones."""
    size = config.head_dim
    order = [*range(0, size, 2), *range(1, size, 2)]
    return [head * size + row for head in range(rows // size) for row in order]


def make_peer(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> CsmForConditionalGeneration:
    """Return the peer with our weights; all its tensors but the codec's are set."""
    peer = CsmForConditionalGeneration(peer_config(config)).eval().requires_grad_(False)
    missing, unexpected = peer.load_state_dict(peer_state(weights, config), strict=False)
    assert not unexpected
    assert all(name.startswith("codec_model.") for name in missing), missing
    return peer
