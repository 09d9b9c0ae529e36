"""The operations of `plain` as Triton kernels."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels.attention import paged_attention
from misotts.engines.graph.kernels.cache import rope_and_cache
from misotts.engines.graph.kernels.depth_attention import depth_attention
from misotts.engines.graph.kernels.embed import embed_frames
from misotts.engines.graph.kernels.linear import linear
from misotts.engines.graph.kernels.norm import rms_norm
from misotts.engines.graph.kernels.sample import sample

KERNELS = (depth_attention, embed_frames, linear, paged_attention, rms_norm, rope_and_cache, sample)


def fused(choices: Choices) -> SimpleNamespace:
    """Return the operations with these choices."""
    return SimpleNamespace(**{kernel.__name__: partial(kernel, choices=choices) for kernel in KERNELS})
