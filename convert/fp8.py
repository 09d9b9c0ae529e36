"""FP8 (E4M3) for TensorRT-LLM: one scale a tensor, real = stored x scale, largest stored value 448.

A matrix's scales are float32 in the checkpoint, but TensorRT-LLM's `FP8Linear` casts them to the type of the
activations before use. So they are numbers of that type here: otherwise stored weights would be multiplied by a scale
that differs by up to 0.2 % (bfloat16) from their divisor. The scale of keys and values is not cast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch

from misotts.engines.eight_bits import LARGEST, round_to


@dataclass(frozen=True)
class Fp8:
    """The result of a calibration, by layer."""

    inputs: list[dict[str, float]]
    """Largest magnitude of the inputs of `attention.qkv`, `attention.dense`, `mlp.fc`, `mlp.gate` and `mlp.proj`."""
    cached: list[float]
    """Largest magnitude of the queries and keys (both rotated) and the values: if keys and values are FP8,
    TensorRT-LLM's context kernel rounds the queries to FP8 as well, with the scale of keys and values."""
    kv: bool
    """True if keys and values are FP8 as well."""

    @property
    def digest(self) -> str:
        """Hash of the calibration."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def input_scale(self, layer: int, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return the scale, float32 [1], of a matrix's input; `dtype`: type of the activations."""
        return _held_by(dtype, _scale(self.inputs[layer][name]))

    def kv_scale(self, layer: int) -> torch.Tensor:
        """Return the scale, float32 [1], of a layer's keys and values."""
        return _scale(self.cached[layer])


def _scale(largest: float) -> torch.Tensor:
    return torch.tensor([largest / LARGEST["fp8"]], dtype=torch.float32)


def weight_scale(parts: Iterable[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Return the scale, float32 [1], that all `parts` can share; `dtype`: type of the activations."""
    largest = torch.stack([part.abs().amax().float() for part in parts]).amax()
    return _held_by(dtype, largest.reshape(1) / LARGEST["fp8"])


def _held_by(dtype: torch.dtype, scale: torch.Tensor) -> torch.Tensor:
    """Return the least number of `dtype` (of 16 or 32 bits) that is not below `scale`, a positive float32."""
    near = scale.to(dtype)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    above = (near.view(bits) + 1).view(dtype)  # the bits of a positive float plus 1 are the next float's
    return torch.where(near.float() < scale, above, near).float()


def quantize(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the stored values of a weight, float8_e4m3fn."""
    return round_to(weight.float() / scale, "fp8")
