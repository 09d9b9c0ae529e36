"""The weights of a model folder, by their canonical (torchtune) names, read lazily from memory-mapped files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from misotts.config import ModelConfig, TransformerConfig

Shapes = dict[str, tuple[int, ...]]


class CheckpointError(ValueError):
    """Weights that do not make the model; the message lists every tensor that is at fault."""


def tensor_shapes(config: ModelConfig) -> Shapes:
    """Name and shape of every tensor of a model (367 of them at 8B)."""
    backbone, decoder = config.backbone, config.decoder
    shapes: Shapes = {
        "text_embeddings.weight": (config.text_vocab_size, backbone.embed_dim),
        "audio_embeddings.weight": (config.audio_num_codebooks * config.audio_vocab_size, backbone.embed_dim),
        "projection.weight": (decoder.embed_dim, backbone.embed_dim),
        "codebook0_head.weight": (config.audio_vocab_size, backbone.embed_dim),
        "audio_head": (config.audio_num_codebooks - 1, decoder.embed_dim, config.audio_vocab_size),
    }
    shapes.update(_transformer_shapes("backbone", backbone))
    shapes.update(_transformer_shapes("decoder", decoder))
    return shapes


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
    """`model.safetensors`, one file or sharded with an index: a mapping from name to tensor.

    A tensor is read when it is asked for and belongs to the caller; nothing else stays in memory.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        """Open the files and hold every name and shape against `config`.

        Raises:
            CheckpointError: a file is missing or damaged, or tensors are missing, unexpected or wrongly shaped.
        """
        self._file_of: dict[str, Path] = {}
        shapes: Shapes = {}
        for path in _weight_files(Path(folder)):
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    self._file_of[name] = path
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        _compare(tensor_shapes(config), shapes, Path(folder))

    def __getitem__(self, name: str) -> torch.Tensor:
        with _open(self._file_of[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted(set(names))]
    else:
        files = [folder / "model.safetensors"]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(f"no weights at {folder}: {', '.join(missing)} missing")
    return files


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from None


def _compare(expected: Shapes, found: Shapes, folder: Path) -> None:
    faults = [f"missing: {name} {list(expected[name])}" for name in expected.keys() - found.keys()]
    faults += [f"unexpected: {name} {list(found[name])}" for name in found.keys() - expected.keys()]
    faults += [
        f"wrong shape: {name} is {list(found[name])}, config.json asks for {list(expected[name])}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    if faults:
        raise CheckpointError(f"the weights at {folder} do not make the model:\n  " + "\n  ".join(sorted(faults)))
