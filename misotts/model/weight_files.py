"""Reads and writes files of weights, one tensor at a time: reading maps them into memory and loads nothing."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from misotts.files import file_fault, folder_fault

Tensors = dict[str, torch.Tensor]
Weights = Mapping[str, torch.Tensor]
"""A model's tensors by name."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys of a pickled dict under which trainers store the weights, beside optimizer states and counters."""

SHOWN_FAULTS = 6
"""Number of faults that an error names; it counts the others."""

_TYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
}


class CheckpointError(ValueError):
    """Weights that cannot be read or do not fit the model; the message is one line."""


def open_weights(path: Path) -> Tensors:
    """Map the tensors of `path`: a `.safetensors` file, a pickled state dict, an `.index.json` of shards, or a folder
    with `model.safetensors` or its index.

    Raises:
        CheckpointError: files cannot be read, are damaged or of another format; the message names them.
    """
    tensors: Tensors = {}
    faults = []
    for file in _files(Path(path)):
        try:
            if fault := file_fault(file):
                raise CheckpointError(f"{file.name} {fault}")
            tensors.update(_open_safetensors(file) if file.suffix == ".safetensors" else _open_pickle(file))
        except CheckpointError as error:
            faults.append(str(error))
    if faults:
        raise CheckpointError(f"the weights at {path} cannot be read: {one_line(faults)}")
    return tensors


def one_line(faults: Sequence[str]) -> str:
    """Join faults, of which the first few tell enough."""
    more = len(faults) - SHOWN_FAULTS
    return "; ".join([*faults[:SHOWN_FAULTS], *([f"and {more} more"] if more > 0 else [])])


def _files(path: Path) -> list[Path]:
    if not folder_fault(path):
        index = path / "model.safetensors.index.json"
        path = index if index.exists() else path / "model.safetensors"
    if fault := file_fault(path):
        raise CheckpointError(f"no weights at {path}: it {fault}")
    if path.suffix != ".json":
        return [path]
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        return [path.with_name(name) for name in sorted(set(names))]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is not an index of shards") from None


def _open_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is truncated or not a safetensors file: {error}") from None


def _open_pickle(path: Path) -> Tensors:
    """Read what MisoTTS's own loader reads: tensors beside counters and other values, under a wrapper or not."""
    try:
        # torch.save of before release 1.6 made files that are no archives and cannot be mapped.
        loaded = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path.name} contains more than weights, or is damaged; code in it is not run") from None
    except (RuntimeError, ValueError, OSError, EOFError, LookupError, AttributeError):
        raise CheckpointError(f"{path.name} is truncated or was not written by torch.save") from None
    return _state_dict(loaded, path)


def _state_dict(loaded: Any, path: Path) -> Tensors:
    if isinstance(loaded, dict):
        for key in WRAPPERS:
            if isinstance(loaded.get(key), dict):
                return _state_dict(loaded[key], path)
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    raise CheckpointError(f"{path.name} contains no state dict, neither directly nor under {', '.join(WRAPPERS)}")


def save_weights(
    path: Path,
    tensors: Weights,
    wrote: Callable[[int], object] = lambda _: None,
    read: Callable[[str], torch.Tensor] | None = None,
) -> None:
    """Write a `.safetensors` file one tensor at a time and call `wrote` with the size of each in bytes. If `tensors`
    are on the meta device, which has only shapes and types, `read` returns the values of each when they are needed.

    safetensors' own writer needs all tensors in memory at once, and makes files that only their owner may read. The
    format is the header's length (8 bytes, little-endian), the header (JSON), then the tensors' bytes without gaps.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = dict(dtype=_TYPE_NAMES[tensor.dtype], shape=list(tensor.shape), data_offsets=[start, end])
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors.items():
            wrote(file.write(tensor_bytes(read(name) if read else tensor)))


def tensor_places(path: Path) -> dict[str, tuple[int, int]]:
    """Return each tensor's first byte and number of bytes in a `.safetensors` file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    offsets = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: (8 + size + start, end - start) for name, (start, end) in offsets.items()}


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return a tensor's values, row by row."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
