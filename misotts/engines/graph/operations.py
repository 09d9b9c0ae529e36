"""The operations of both transformers: fused kernels on a GPU, plain PyTorch elsewhere."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import torch

from misotts.engines.graph import plain


class Operations:
    """The type of the modules `plain`, which describes each function, and `fused`."""

    linear = staticmethod(plain.linear)
    rms_norm = staticmethod(plain.rms_norm)
    rope_and_cache = staticmethod(plain.rope_and_cache)
    paged_attention = staticmethod(plain.paged_attention)
    depth_attention = staticmethod(plain.depth_attention)
    sample = staticmethod(plain.sample)
    embed_frames = staticmethod(plain.embed_frames)


def operations(name: str) -> Operations:
    """Return the operations `plain` or `fused`. Only `fused` imports Triton."""
    return cast(Operations, import_module(f"misotts.engines.graph.{name}"))


def operations_on(device: str) -> Operations:
    """Return `fused` on a GPU, and `plain` on the CPU and with a PyTorch without CUDA (a test's emulated GPU)."""
    return operations("plain" if device == "cpu" or torch.version.cuda is None else "fused")
