"""FP8 (E4M3) as TensorRT-LLM wants it: one scale a tensor, real = stored x scale, largest stored value 448."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch

from misotts.generate.engines.eight_bits import LARGEST, round_to


@dataclass(frozen=True)
class Fp8:
    """What a calibration has found, by layer."""

    inputs: list[dict[str, float]]
    """Largest magnitude of what enters `attention.qkv`, `attention.dense`, `mlp.fc`, `mlp.gate` and `mlp.proj`."""
    cached: list[float]
    """Largest magnitude of the keys (rotated) and values."""
    kv: bool
    """Whether keys and values are kept in FP8 as well."""

    @property
    def digest(self) -> str:
        """Tells one calibration from another."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def input_scale(self, layer: int, name: str) -> torch.Tensor:
        return _scale(self.inputs[layer][name])

    def kv_scale(self, layer: int) -> torch.Tensor:
        return _scale(self.cached[layer])


def _scale(largest: float) -> torch.Tensor:
    return torch.tensor([largest / LARGEST["fp8"]], dtype=torch.float32)


def weight_scale(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """The scale, float32 [1], that all `parts` can share."""
    largest = torch.stack([part.abs().amax().float() for part in parts]).amax()
    return largest.reshape(1) / LARGEST["fp8"]


def quantize(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What is stored of a weight, float8_e4m3fn."""
    return round_to(weight.float() / scale, "fp8")
