"""The operations of both transformers: fused kernels on a GPU, plain PyTorch elsewhere."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

import torch

from misotts.engines.graph.matrix import Matrix
from misotts.engines.graph.plain import LayerCache, Tiles


class Operations(Protocol):
    """The functions of `plain`, where each is described."""

    def linear(
        self,
        x: torch.Tensor,
        matrix: Matrix,
        norm_eps: float | None = None,
        swiglu: bool = False,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor: ...

    def rms_norm(self, x: torch.Tensor, scale: torch.Tensor, eps: float) -> torch.Tensor: ...

    def rope_and_cache(
        self,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        positions: torch.Tensor,
        kv_index: torch.Tensor,
        cache: LayerCache,
    ) -> torch.Tensor: ...

    def paged_attention(
        self, q: torch.Tensor, cache: LayerCache, tables: torch.Tensor, tiles: Tiles
    ) -> torch.Tensor: ...

    def depth_attention(
        self,
        qkv: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        first: int,
    ) -> torch.Tensor: ...

    def sample(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        noise: torch.Tensor,
        table: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]: ...

    def embed_frames(self, codes: torch.Tensor, table: torch.Tensor, vocabulary: int) -> torch.Tensor: ...


def operations(name: str) -> Operations:
    """Return the operations `plain` or `fused`. Only `fused` imports Triton."""
    return cast(Operations, import_module(f"misotts.engines.graph.{name}"))


def operations_on(device: str) -> Operations:
    """Return `fused` on a GPU, and `plain` on the CPU and with a PyTorch without CUDA (a test's emulated GPU)."""
    return operations("plain" if device == "cpu" or torch.version.cuda is None else "fused")
