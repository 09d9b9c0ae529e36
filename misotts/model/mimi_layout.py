"""The layout of Mimi in Transformers (`kyutai/mimi`), converted to moshi's names and row order."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch

from misotts.model.csm_layout import interleaved_rows
from misotts.model.weight_files import Weights

_RENAMES = [
    (r"^(encoder|decoder)\.layers\.(.*)\.conv\.(\w+)$", r"\1.model.\2.conv.conv.\3"),
    (r"^(encoder|decoder)_transformer\.layers\.", r"\1_transformer.transformer.layers."),
    (r"\.self_attn\.o_proj\.", ".self_attn.out_projs.0."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
    (r"\.input_layernorm\.", ".norm1."),
    (r"\.post_attention_layernorm\.", ".norm2."),
    (r"\.self_attn_layer_scale\.", ".layer_scale_1."),
    (r"\.mlp_layer_scale\.", ".layer_scale_2."),
    (r"^downsample\.conv\.", "downsample.conv.conv.conv."),
    (r"^upsample\.conv\.", "upsample.convtr.convtr.convtr."),
    (r"\.semantic_residual_vector_quantizer\.", ".rvq_first."),
    (r"\.acoustic_residual_vector_quantizer\.", ".rvq_rest."),
    (r"\.layers\.(\d+)\.codebook\.embed_sum$", r".vq.layers.\1._codebook.embedding_sum"),
    (r"\.layers\.(\d+)\.codebook\.initialized$", r".vq.layers.\1._codebook._initialized"),
    (r"\.layers\.(\d+)\.codebook\.", r".vq.layers.\1._codebook."),
]
_QUERY = ".self_attn.q_proj.weight"


def is_transformers_mimi(names: Collection[str]) -> bool:
    """True if these are the tensors of a Transformers `MimiModel`."""
    return any("residual_vector_quantizer" in name for name in names)


def moshi_tensors(tensors: Weights, expected: Collection[str], heads: int) -> dict[str, torch.Tensor]:
    """Convert `tensors` to moshi's layout, which has the names `expected`. `heads` is the number of attention heads of
    the codec's transformers.

    A tensor without a counterpart keeps its name, which the loader then reports.
    """
    out = {}
    for name, tensor in tensors.items():
        if name.endswith(_QUERY):
            key, value = (tensors[name.replace("q_proj", part)] for part in ("k_proj", "v_proj"))
            rotated = [interleaved_rows(part, len(part) // heads) for part in (tensor, key)]
            out[_renamed(name.replace("q_proj", "in_projs.0"), expected)] = torch.cat([*rotated, value])
        elif not name.endswith((".self_attn.k_proj.weight", ".self_attn.v_proj.weight")):
            out[_renamed(name, expected)] = tensor
    return out


def _renamed(name: str, expected: Collection[str]) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    transposed = name.replace(".conv.conv.", ".convtr.convtr.")
    return transposed if name not in expected and transposed in expected else name
