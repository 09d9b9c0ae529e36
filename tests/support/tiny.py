"""A model small enough to make in a test, with uneven heads."""

from __future__ import annotations

from typing import Any

import torch

from demo.model import make_weights
from misotts.config import ModelConfig

TINY: dict[str, Any] = dict(
    text_vocab_size=40,
    audio_vocab_size=19,
    audio_num_codebooks=3,
    max_seq_len=64,
    backbone=dict(num_layers=2, embed_dim=48, num_heads=6, num_kv_heads=2, intermediate_dim=40),
    decoder=dict(num_layers=1, embed_dim=32, num_heads=4, num_kv_heads=1, intermediate_dim=24),
)


def tiny_config(**changes: object) -> ModelConfig:
    return ModelConfig.from_dict({**TINY, **changes})


def tiny_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return make_weights(tiny_config())
