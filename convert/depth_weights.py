"""The weights of the depth graph: names, shapes, and values from a checkpoint, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F

from misotts.config import ModelConfig
from misotts.engines.transformer import LayerMatrix, layer_matrix

Shape = tuple[int, ...]

NORMS = {"attention_norm": "sa_norm", "mlp_norm": "mlp_norm"}
"""Names of a layer's norms in the graph, and in the checkpoint."""


def depth_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Return the name and shape of every weight of the graph, in the order of the file.

    Matrices are [in, out], as they are multiplied, so that the graph has no transpose that an engine could fold into a
    copy for each of its 31 uses.
    """
    depth, width, codebooks = config.depth, config.backbone.embed_dim, config.audio_num_codebooks
    inner, qkv = depth.intermediate_dim, (depth.num_heads + 2 * depth.num_kv_heads) * depth.head_dim
    shapes: dict[str, Shape] = {"heads.0": (width, config.audio_codes), "projection": (width, depth.embed_dim)}
    for n in range(depth.num_layers):
        shapes[f"layers.{n}.attention_norm"] = (depth.embed_dim,)
        shapes[f"layers.{n}.qkv"] = (depth.embed_dim, qkv)
        shapes[f"layers.{n}.output"] = (depth.embed_dim, depth.embed_dim)
        shapes[f"layers.{n}.mlp_norm"] = (depth.embed_dim,)
        shapes[f"layers.{n}.gate_up"] = (depth.embed_dim, 2 * inner)
        shapes[f"layers.{n}.down"] = (inner, depth.embed_dim)
    shapes["norm"] = (depth.embed_dim,)
    shapes.update({f"heads.{i}": (depth.embed_dim, config.audio_codes) for i in range(1, codebooks)})
    # A code's projected embedding depends on (codebook, code) alone: a table, as in `TorchDepth`.
    shapes["inputs"] = ((codebooks - 1) * config.audio_vocab_size, depth.embed_dim)
    shapes["embeddings"] = (codebooks * config.audio_vocab_size, width)
    return shapes


def depth_weight(name: str, weights: Mapping[str, torch.Tensor], config: ModelConfig) -> torch.Tensor:
    """Return the values of one weight, in the checkpoint's type. The heads have only the codes that are audio."""
    kind, _, rest = name.partition(".")
    if kind == "heads":
        codebook = int(rest)
        head = weights["audio_head"][codebook - 1] if codebook else weights["codebook0_head.weight"].T
        return head[:, : config.audio_codes]
    if kind == "layers":
        number, _, part = rest.partition(".")
        layer = f"decoder.layers.{number}"
        if part in NORMS:
            return weights[f"{layer}.{NORMS[part]}.scale"]
        return layer_matrix(weights, layer, cast(LayerMatrix, part), config.depth).T
    if kind == "norm":
        return weights["decoder.norm.scale"]
    if kind == "projection":
        return weights["projection.weight"].T
    table = weights["audio_embeddings.weight"]
    if kind == "embeddings":
        return table
    parts = table.split(config.audio_vocab_size)[:-1]
    projection = weights["projection.weight"].float()
    return torch.cat([F.linear(part.float(), projection).to(table.dtype) for part in parts])
