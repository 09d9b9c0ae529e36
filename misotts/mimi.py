"""Kyutai's Mimi codec, as moshi builds it: 24 kHz mono audio <-> frames of codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from moshi.models import MimiModel
from moshi.models.loaders import get_mimi

from misotts.config import FRAME_SAMPLES, SAMPLE_RATE, ModelConfig
from misotts.transformers_mimi import is_transformers_mimi, moshi_tensors
from misotts.weight_files import CheckpointError, open_weights

PUBLISHED: Mapping[str, Any] = {
    "sample_rate": SAMPLE_RATE,
    "channels": 1,
    "frame_rate": SAMPLE_RATE / FRAME_SAMPLES,
    "seanet": {
        "channels": 1,
        "dimension": 512,
        "causal": True,
        "n_filters": 64,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "norm": "none",
        "pad_mode": "constant",
        "ratios": [8, 6, 5, 4],
        "true_skip": True,
    },
    "quantizer": {"dimension": 256, "n_q": 32, "bins": 2048, "input_dimension": 512, "output_dimension": 512},
    "transformer": {
        "d_model": 512,
        "num_heads": 8,
        "num_layers": 8,
        "causal": True,
        "layer_scale": 0.01,
        "context": 250,
        "conv_layout": True,
        "max_period": 10000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 2048,
        "input_dimension": 512,
        "output_dimensions": [512],
    },
}
"""Sizes of the published codec (79.3 M parameters). A model folder's `mimi` names what differs."""


def build_mimi(config: ModelConfig) -> MimiModel:
    """Mimi at the model's sizes, weights not set."""
    sizes = {
        key: {**value, **config.mimi.get(key, {})} if isinstance(value, Mapping) else config.mimi.get(key, value)
        for key, value in PUBLISHED.items()
    }
    return get_mimi(None, sizes, num_codebooks=config.audio_num_codebooks)


def load_mimi(folder: Path, config: ModelConfig, device: str = "cpu") -> MimiModel:
    """Mimi with the weights of `folder/mimi.safetensors`: see `read_mimi`."""
    return read_mimi(Path(folder) / "mimi.safetensors", config).to(device)


def read_mimi(path: Path, config: ModelConfig) -> MimiModel:
    """Mimi with the weights of a file in moshi's or Transformers' layout, in evaluation mode, without gradients.

    Raises:
        CheckpointError: the file is missing, damaged, or holds another codec; the message lists what does not fit.
    """
    mimi, tensors = build_mimi(config), open_weights(path)
    if is_transformers_mimi(tensors):
        heads = {**PUBLISHED["transformer"], **config.mimi.get("transformer", {})}["num_heads"]
        tensors = moshi_tensors(tensors, mimi.state_dict().keys(), heads)
    try:
        mimi.load_state_dict(tensors)
    except RuntimeError as error:  # lists every name and shape
        raise CheckpointError(f"{path} does not make the codec: {error}") from None
    return mimi.eval().requires_grad_(False)


@torch.inference_mode()
def encode(mimi: MimiModel, audio: np.ndarray) -> np.ndarray:
    """Encode a whole clip, float32 [samples] at 24 kHz → codes int32 [frames, codebooks]; the last frame is padded
    with silence."""
    wave = torch.from_numpy(audio).to(next(mimi.parameters()).device)
    wave = F.pad(wave, (0, -len(wave) % FRAME_SAMPLES))
    return mimi.encode(wave.view(1, 1, -1))[0].T.to("cpu", torch.int32).numpy()
