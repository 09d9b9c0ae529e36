"""What an engine folder says of itself, and whether it may be used: `engines/<name>/manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from misotts.config import ModelConfig, TransformerConfig
from misotts.model.weight_files import tensor_bytes

FILE = "manifest.json"


class EngineError(ValueError):
    """An engine that is missing, or does not match its model, GPU or library; the message says what to do."""


@dataclass(frozen=True)
class Manifest:
    """What an engine was made of, and what it is good for."""

    weights: str
    """`weights_hash` of the tensors that went into it."""
    dtype: str
    """Type in which it computes, as `dtype_name` writes it."""
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Libraries and their releases."""
    gpu: str | None = None
    """Compute capability, such as 8.9; None where it runs on any machine."""
    limits: Mapping[str, int] = field(default_factory=dict)
    matrices: str | None = None
    """`int8` or `fp8` where the matrices are stored in 8 bits, with a scale for each output; None: as `dtype` says."""

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, how: str) -> Manifest:
        """Read a folder's manifest; `how` is the command that makes the engine.

        Raises:
            EngineError: there is none, or it cannot be read.
        """
        try:
            return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise EngineError(f"no engine at {folder}; make it with: {how}") from None
        except (ValueError, TypeError, OSError) as error:
            raise EngineError(f"{folder / FILE} cannot be read ({error}); make the engine again with: {how}") from None

    def check(self, folder: Path, how: str, **expected: object) -> None:
        """Hold fields against what the model, GPU or library at hand asks for; a mapping may hold more than is asked.

        Raises:
            EngineError: names the first that differs, what it is and what it should be.
        """
        for name, value in expected.items():
            found = getattr(self, name)
            if isinstance(value, Mapping):
                found = {key: found.get(key) for key in value}
            if found != value:
                raise EngineError(f"the engine at {folder} has {name} {found}, here it is {value}; make it with: {how}")

    def is_at(self, folder: Path) -> bool:
        """Whether `folder` holds an engine with just this manifest, so that it need not be made again."""
        try:
            return Manifest.load(folder, "") == self
        except EngineError:
            return False


def engine_folder(model: Path, name: str, dtype: torch.dtype) -> Path:
    """Where a model folder keeps an engine."""
    return model / "engines" / f"{name}-{dtype_name(dtype)}"


def depth_engine(library: str, stored: str | None) -> str:
    """Name of a depth engine: `depth-onnx`, `depth-tensorrt-int8`, ... `stored` as in `Manifest.matrices`."""
    return "-".join(["depth", library, *([stored] if stored else [])])


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, `bfloat16` or `float16`."""
    return str(dtype).removeprefix("torch.")


def weights_hash(
    weights: Mapping[str, torch.Tensor], names: Iterable[str], network: TransformerConfig | None = None
) -> str:
    """SHA-256 over the named tensors, names, types, shapes and values, and over what `network` says of heads, norm and
    RoPE, which no tensor shows."""
    digest = hashlib.sha256(repr(network).encode())
    for name in sorted(names):
        tensor = weights[name]
        digest.update(f"{name} {dtype_name(tensor.dtype)} {list(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def depth_hash(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> str:
    """`weights_hash` of what a depth engine is made of."""
    names = [name for name in weights if not name.startswith(("backbone.", "text_embeddings."))]
    return weights_hash(weights, names, config.depth)
