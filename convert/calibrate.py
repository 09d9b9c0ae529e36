"""Calibration for FP8: the largest magnitudes of the inputs of the backbone's matrices, and of keys and values, over
real prompts. FP8's scales follow from them.

One layer is in memory at a time: its weights are read, all prompts go through it, and its weights are freed. The states
of all prompts stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from convert.fp8 import Fp8
from misotts.config import ConfigError, ModelConfig, TransformerConfig
from misotts.engines.eager.layers import Layer
from misotts.engines.embedding import Embedding
from misotts.engines.transformer import rope_table
from misotts.mimi import encode, load_mimi
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts_client.request import SpeechRequest

MATRICES = {
    "qkv": ("attention.qkv",),
    "output": ("attention.dense",),
    "gate_up": ("mlp.fc", "mlp.gate"),
    "down": ("mlp.proj",),
}
"""A `Layer`'s matrices, and their names in the checkpoint."""


def real_prompts(model: Path, config: ModelConfig, texts: Iterable[str], voices: Path) -> list[torch.Tensor]:
    """Return the prompts of every text with every voice of a folder, int64 [positions, codebooks + 1], as the server
    builds them.

    Raises:
        ConfigError: the folder has no voice, and so the prompts would have no speech.
        MisoError: a text or a voice is not usable.
    """
    mimi, known = load_mimi(model, config), Voices(voices)
    if not known.names():
        raise ConfigError(f"no voice at {voices}: FP8 has to be calibrated with text and speech")
    prompter = Prompter(model, config, partial(encode, mimi), known)
    requests = [SpeechRequest(text, voice=name) for name in known.names() for text in texts]
    return [torch.from_numpy(prompter.build(request).frames).long() for request in requests]


@torch.inference_mode()
def calibrate(
    weights: Mapping[str, torch.Tensor],
    config: ModelConfig,
    prompts: Iterable[torch.Tensor],
    kv: bool,
    progress: Callable[[int, int], object],
    device: str = "cpu",
) -> Fp8:
    """Run prompts (see `real_prompts`) through the backbone, in float32. `progress` is called with the number of layers
    that are done and the number of all. `kv`: True if keys and values will be FP8 as well."""
    backbone = config.backbone
    embedding = Embedding(weights, config)
    states = [embedding.prompt(prompt).to(device) for prompt in prompts]
    cos, sin = (t.to(device).unsqueeze(1) for t in rope_table(backbone, max(map(len, states))))
    inputs, cached = [], []
    for n in range(backbone.num_layers):
        layer = Layer.load(weights, f"backbone.layers.{n}", backbone, device, torch.float32)
        seen = _Largest(layer)
        with seen:
            for i, state in enumerate(states):
                states[i] = _through(layer, state, cos[: len(state)], sin[: len(state)], backbone, seen)
        inputs.append(seen.inputs)
        cached.append(seen.cached)
        progress(n + 1, backbone.num_layers)
    return Fp8(inputs, cached, kv)


class _Largest(TorchFunctionMode):
    """Records the largest magnitudes of the inputs of a layer's matrices."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self._layer = layer
        self.inputs = {name: 0.0 for names in MATRICES.values() for name in names}
        self.cached = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            x, weight = args
            for matrix, names in MATRICES.items():
                if weight is getattr(self._layer, matrix):
                    self.inputs.update({name: max(self.inputs[name], float(x.abs().amax())) for name in names})
        return func(*args, **(kwargs or {}))


def _through(
    layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, config: TransformerConfig, seen: _Largest
) -> torch.Tensor:
    """Run one layer over one prompt [positions, width]."""
    q, k, v = layer.split_heads(x, cos, sin, config)
    seen.cached = max(seen.cached, *(float(t.abs().amax()) for t in (q, k, v)))
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return layer.merge(x, attended.transpose(0, 1).flatten(1))
