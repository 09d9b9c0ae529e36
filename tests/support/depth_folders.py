"""Model folders for tests of depth engines: copies that may be written to, and bare ones of any size."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from demo.model import make_weights
from misotts.config import ModelConfig
from misotts.model.weight_files import save_weights


def copy_of(model: Path, folder: Path) -> Path:
    """Make a model folder with the files of `model` and no engines."""
    folder.mkdir(parents=True)
    for file in model.iterdir():
        if file.name != "engines":
            (folder / file.name).symlink_to(file.resolve())
    return folder


def bare_folder(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
    """Make a model folder with only a configuration and random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    torch.manual_seed(seed)
    save_weights(folder / "model.safetensors", make_weights(config), lambda size: None)
    return folder
