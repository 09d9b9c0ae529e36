"""The source of a built engine, and the check whether the engine may be used: `engines/<name>/manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from misotts.config import ModelConfig, TransformerConfig
from misotts.engines.table import MANIFEST, EngineError, EngineFolder
from misotts.model.weight_files import Weights, tensor_bytes


@dataclass(frozen=True)
class Manifest:
    """The source of a built engine, and its limits."""

    weights: str
    """`weights_hash` of the tensors that went into it."""
    dtype: str
    """Type in which it computes, as `dtype_name` writes it."""
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Libraries and their releases."""
    gpu: str | None = None
    """Compute capability, such as 8.9; None where it runs on any machine."""
    limits: Mapping[str, int] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: EngineFolder) -> Manifest:
        """Read a folder's manifest. Fields that this release does not know are ignored.

        Raises:
            EngineError: there is none, or it cannot be read.
        """
        try:
            raw = json.loads((folder.path / MANIFEST).read_text(encoding="utf-8"))
            return cls(**{each.name: raw[each.name] for each in fields(cls)})
        except FileNotFoundError:
            raise folder.missing() from None
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise folder.unusable(f"has a {MANIFEST} that cannot be read ({error})") from None

    def check(self, folder: EngineFolder, **expected: object) -> None:
        """Compare fields with what the model, GPU or library at hand needs. A mapping may have further keys.

        Raises:
            EngineError: names the first field that differs, with both values.
        """
        for name, value in expected.items():
            found = getattr(self, name)
            if isinstance(value, Mapping):
                found = {key: found.get(key) for key in value}
            if found != value:
                raise folder.unusable(f"has {name} {found}, but {value} is needed here")

    def is_at(self, folder: EngineFolder) -> bool:
        """True if `folder` holds an engine with exactly this manifest, so that it need not be built again."""
        try:
            return Manifest.load(folder) == self
        except EngineError:
            return False


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, `bfloat16` or `float16`."""
    return str(dtype).removeprefix("torch.")


def weights_hash(weights: Weights, names: Iterable[str], network: TransformerConfig) -> str:
    """SHA-256 over the named tensors' names, types, shapes and values, and over `network`, because no tensor shows
    heads, norm and RoPE."""
    digest = hashlib.sha256(repr(network).encode())
    for name in sorted(names):
        tensor = weights[name]
        digest.update(f"{name} {dtype_name(tensor.dtype)} {list(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def depth_hash(weights: Weights, config: ModelConfig) -> str:
    """`weights_hash` of the tensors of a depth engine."""
    names = [name for name in weights if not name.startswith(("backbone.", "text_embeddings."))]
    return weights_hash(weights, names, config.depth)
