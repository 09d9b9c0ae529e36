"""The sizes of the demo's model, in the words of a model folder's `config.json`."""

from __future__ import annotations

from typing import Any

from misotts.config import ModelConfig

CODEBOOKS = 32
BINS = 128
"""Codes of a codebook."""
LATENT, SEMANTIC = 64, 16
"""Numbers that codebooks 1 to 31 quantise, and those of codebook 0."""

CONFIG: dict[str, Any] = {
    "text_vocab_size": 258,
    "audio_vocab_size": BINS + 3,
    "audio_num_codebooks": CODEBOOKS,
    "backbone": dict(num_layers=5, embed_dim=256, num_heads=4, num_kv_heads=2, intermediate_dim=640),
    "decoder": dict(num_layers=2, embed_dim=128, num_heads=4, num_kv_heads=2, intermediate_dim=320),
    "mimi": {
        "seanet": {"dimension": 128, "n_filters": 16},
        "quantizer": {"dimension": LATENT, "bins": BINS, "input_dimension": 128, "output_dimension": 128},
        "transformer": {
            "d_model": 128,
            "num_heads": 4,
            "num_layers": 2,
            "context": 32,
            "layer_scale": 0.1,
            "dim_feedforward": 256,
            "input_dimension": 128,
            "output_dimensions": [128],
        },
    },
}


def model_config() -> ModelConfig:
    return ModelConfig.from_dict(CONFIG)
