"""The weights of a model by their canonical (torchtune) names, from every published layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from misotts.config import ModelConfig, TransformerConfig
from misotts.model.csm_layout import AUDIO_EMBEDDINGS, CODEC, canonical_names, interleaved_rows, is_csm
from misotts.model.weight_files import CheckpointError, Tensors, one_line, open_weights

Shapes = dict[str, tuple[int, ...]]

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Return the name and shape of every tensor of a model; the 8B model has 367."""
    backbone, depth = config.backbone, config.depth
    shapes: Shapes = {
        "text_embeddings.weight": (config.text_vocab_size, backbone.embed_dim),
        "audio_embeddings.weight": (config.audio_num_codebooks * config.audio_vocab_size, backbone.embed_dim),
        "projection.weight": (depth.embed_dim, backbone.embed_dim),
        "codebook0_head.weight": (config.audio_vocab_size, backbone.embed_dim),
        "audio_head": (config.audio_num_codebooks - 1, depth.embed_dim, config.audio_vocab_size),
    }
    return shapes | _transformer_shapes("backbone", backbone) | _transformer_shapes("decoder", depth)


def _transformer_shapes(prefix: str, config: TransformerConfig) -> Shapes:
    width, kv_width, inner = config.embed_dim, config.num_kv_heads * config.head_dim, config.intermediate_dim
    layer: Shapes = {
        "attn.q_proj.weight": (width, width),
        "attn.k_proj.weight": (kv_width, width),
        "attn.v_proj.weight": (kv_width, width),
        "attn.output_proj.weight": (width, width),
        "mlp.w1.weight": (inner, width),
        "mlp.w2.weight": (width, inner),
        "mlp.w3.weight": (inner, width),
        "sa_norm.scale": (width,),
        "mlp_norm.scale": (width,),
    }
    shapes = {f"{prefix}.layers.{n}.{name}": shape for n in range(config.num_layers) for name, shape in layer.items()}
    shapes[f"{prefix}.norm.scale"] = (width,)
    return shapes


class Checkpoint(Mapping[str, torch.Tensor]):
    """Maps canonical names to a model's tensors, whatever the layout of its files.

    The tensors are memory-mapped. A change that a caller makes to one does not reach the file.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        """Open `path` (see `open_weights`) and compare every name, shape and type with `config`.

        Raises:
            CheckpointError: a file is missing or damaged, or tensors are missing, unexpected, of a wrong shape or of a
                type other than F32, BF16 and F16.
        """
        tensors = open_weights(path)
        self._half_split = is_csm(tensors)
        self._head_dims = {"backbone": config.backbone.head_dim, "decoder": config.depth.head_dim}
        self._tensors = _from_csm(tensors, config) if self._half_split else tensors
        _compare(tensor_shapes(config), self._tensors, path)

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._tensors[name]
        if self._half_split and name.endswith(("q_proj.weight", "k_proj.weight")):
            return interleaved_rows(tensor, self._head_dims[name.split(".")[0]])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _from_csm(tensors: Tensors, config: ModelConfig) -> Tensors:
    """Rename tensors to canonical names. One that has none keeps its own and is reported as unexpected."""
    tables = [tensors[name] for name in AUDIO_EMBEDDINGS if name in tensors]
    if len(tables) == 2 and not torch.equal(*tables):
        raise CheckpointError(f"{' and '.join(AUDIO_EMBEDDINGS)} must be one table, but they differ")
    names = canonical_names(config)
    return {names.get(name, name): tensor for name, tensor in tensors.items() if not name.startswith(CODEC)}


def _compare(expected: Shapes, found: Tensors, path: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if prefix := _prefix(expected, found):
        raise CheckpointError(f"the names of the weights at {path} have the prefix {prefix!r}, which must be removed")
    faults = [f"missing: {name} {list(expected[name])}" for name in expected.keys() - found.keys()]
    faults += [f"unexpected: {name} {list(shapes[name])}" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        if shapes[name] != expected[name]:
            faults.append(f"wrong shape: {name} is {list(shapes[name])}, config.json asks for {list(expected[name])}")
        if found[name].dtype not in TYPES:
            faults.append(f"wrong type: {name} is {found[name].dtype}, it must be one of {', '.join(map(str, TYPES))}")
    if faults:
        raise CheckpointError(f"the weights at {path} do not fit config.json: {one_line(sorted(faults))}")


def _prefix(expected: Shapes, found: Tensors) -> str:
    """Return the words that a trainer put before every name, such as `_orig_mod.`; empty if there are none."""
    first = min(expected)
    prefixes = [name.removesuffix(first) for name in found if name.endswith(first) and name != first]
    return next((prefix for prefix in prefixes if all(prefix + name in found for name in expected)), "")
