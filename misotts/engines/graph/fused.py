"""The operations of `plain` as Triton kernels."""

from misotts.engines.graph.kernels.attention import paged_attention
from misotts.engines.graph.kernels.cache import rope_and_cache
from misotts.engines.graph.kernels.depth_attention import depth_attention
from misotts.engines.graph.kernels.embed import embed_frames
from misotts.engines.graph.kernels.linear import linear
from misotts.engines.graph.kernels.norm import rms_norm
from misotts.engines.graph.kernels.sample import sample

__all__ = ["depth_attention", "embed_frames", "linear", "paged_attention", "rms_norm", "rope_and_cache", "sample"]
