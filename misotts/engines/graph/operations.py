"""The operations of both transformers: fused kernels on a GPU, plain PyTorch elsewhere."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import torch

from misotts.engines.graph import plain
from misotts.engines.graph.choices import Choices


class Operations:
    """The type of the module `plain`, which describes each function, and of what `fused` returns."""

    linear = staticmethod(plain.linear)
    rms_norm = staticmethod(plain.rms_norm)
    rope_and_cache = staticmethod(plain.rope_and_cache)
    paged_attention = staticmethod(plain.paged_attention)
    depth_attention = staticmethod(plain.depth_attention)
    sample = staticmethod(plain.sample)
    embed_frames = staticmethod(plain.embed_frames)


def operations(name: str, choices: Choices = Choices()) -> Operations:
    """Return the operations `plain`, for which there is nothing to choose, or `fused`, which alone imports Triton."""
    if name == "plain":
        return cast(Operations, plain)
    return cast(Operations, import_module(f"misotts.engines.graph.{name}").fused(choices))


def operations_on(device: str, choices: Choices = Choices()) -> Operations:
    """Return `fused` on a GPU, and `plain` on the CPU and with a PyTorch without CUDA (a test's emulated GPU)."""
    return operations("plain" if device == "cpu" or torch.version.cuda is None else "fused", choices)
