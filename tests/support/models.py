"""Models for tests: a tiny one with uneven heads, the sizes of the 8B model, and folders that a test may write to."""

import json
from pathlib import Path
from typing import Any

import torch

from demo.model import make_weights
from misotts.config import RESERVED_CODES, ModelConfig
from misotts.model.weight_files import save_weights

TINY: dict[str, Any] = dict(
    text_vocab_size=40,
    audio_vocab_size=19,
    audio_num_codebooks=3,
    max_seq_len=64,
    mimi={"quantizer": {"bins": 16}},
    backbone=dict(num_layers=2, embed_dim=48, num_heads=6, num_kv_heads=2, intermediate_dim=40),
    decoder=dict(num_layers=1, embed_dim=32, num_heads=4, num_kv_heads=1, intermediate_dim=24),
)

SIZES_8B = dict(text_vocab_size=128256, audio_vocab_size=2051, audio_num_codebooks=32)
MISO_8B = ModelConfig.from_dict({**SIZES_8B, "backbone": "llama-8B", "decoder": "llama-300M"})


def tiny_config(**changes: object) -> ModelConfig:
    raw = {**TINY, **changes}
    return ModelConfig.from_dict({**raw, "mimi": {"quantizer": {"bins": raw["audio_vocab_size"] - RESERVED_CODES}}})


def config_with(config: ModelConfig, **changes: object) -> ModelConfig:
    return ModelConfig.from_dict({**config.to_dict(), **changes})


def tiny_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return make_weights(tiny_config())


def copy_of(model: Path, folder: Path) -> Path:
    """Make a model folder with the files of `model` and no engines."""
    folder.mkdir(parents=True)
    for file in model.iterdir():
        if file.name != "engines":
            (folder / file.name).symlink_to(file.resolve())
    return folder


def bare_folder(folder: Path, config: ModelConfig | None = None, seed: int = 0) -> Path:
    """Make a model folder with only a configuration (the tiny one, if none is given) and random weights."""
    config = config or tiny_config()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    torch.manual_seed(seed)
    save_weights(folder / "model.safetensors", make_weights(config), ignore)
    return folder


def ignore(*_: object) -> None:
    """Replaces a report of progress."""
