"""The operations of `plain`, by the Triton kernels."""

from misotts.generate.engines.cuda.kernels.attention import paged_attention
from misotts.generate.engines.cuda.kernels.cache import rope_and_cache
from misotts.generate.engines.cuda.kernels.depth_attention import depth_attention
from misotts.generate.engines.cuda.kernels.draw import draw
from misotts.generate.engines.cuda.kernels.embed import embed_frames
from misotts.generate.engines.cuda.kernels.linear import linear
from misotts.generate.engines.cuda.kernels.norm import rms_norm

__all__ = ["depth_attention", "draw", "embed_frames", "linear", "paged_attention", "rms_norm", "rope_and_cache"]
