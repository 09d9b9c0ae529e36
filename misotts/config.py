"""The configuration of a model folder, `config.json`, and the constants that several stages share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from misotts_client.contract import FRAME_MS as FRAME_MS
from misotts_client.contract import FRAME_SAMPLES as FRAME_SAMPLES
from misotts_client.contract import INPUTS
from misotts_client.contract import MAX_CHUNK_FRAMES as MAX_CHUNK_FRAMES
from misotts_client.contract import SAMPLE_RATE as SAMPLE_RATE

RESERVED_CODES = 3
"""Number of codes at the end of every codebook (2048, 2049, 2050) that Mimi does not have. They are never sampled."""

MASKED = -1
"""Value of a column that a position of a prompt does not use."""

NO_SLOT = -1
"""Slot of a stream that has none."""

MAX_UNACKNOWLEDGED = 8
"""Number of chunks of a stream that may be unacknowledged; the stream then pauses."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file and the key."""


def _integer(name: str, value: Any, at_least: int) -> int:
    if not isinstance(value, int) or value < at_least:
        raise ConfigError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    return value


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one Llama transformer, with torchtune's names.

    RoPE is Llama 3's: low factor 1, high factor 4, original context 8192.
    """

    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    intermediate_dim: int
    norm_eps: float = 1e-5
    rope_base: float = 500_000.0
    rope_scale_factor: float = 32.0

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    def __post_init__(self) -> None:
        for name in ("num_layers", "embed_dim", "num_heads", "num_kv_heads", "intermediate_dim"):
            _integer(name, getattr(self, name), at_least=1)
        if self.embed_dim % self.num_heads or self.head_dim % 2:
            raise ConfigError(f"embed_dim {self.embed_dim} must be an even multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")


FLAVORS: Mapping[str, dict[str, int]] = {
    "llama-8B": dict(num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, intermediate_dim=14336),
    "llama-1B": dict(num_layers=16, embed_dim=2048, num_heads=32, num_kv_heads=8, intermediate_dim=8192),
    "llama-300M": dict(num_layers=8, embed_dim=1536, num_heads=24, num_kv_heads=6, intermediate_dim=6912),
    "llama-100M": dict(num_layers=4, embed_dim=1024, num_heads=8, num_kv_heads=2, intermediate_dim=8192),
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a MisoTTS or CSM model. The JSON key of `depth`, the depth decoder, is `decoder`."""

    text_vocab_size: int
    audio_vocab_size: int
    audio_num_codebooks: int
    backbone: TransformerConfig
    depth: TransformerConfig
    max_seq_len: int = 2048
    speaker_space: bool = True
    """True if a space follows the speaker tag: `[0] text` (MisoTTS), not `[0]text` (CSM-1B)."""
    mimi: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of Mimi that differ from the published codec, with moshi's names."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """The model's own defaults of `temperature` and `top_k`, either or both, in place of the contract's."""

    @property
    def audio_codes(self) -> int:
        """Number of codes of a codebook that are audio: 0 to `audio_codes` - 1."""
        return self.audio_vocab_size - RESERVED_CODES

    @property
    def frame_columns(self) -> int:
        """Number of columns of a position: one per codebook, then the text token."""
        return self.audio_num_codebooks + 1

    @classmethod
    def load(cls, folder: Path) -> ModelConfig:
        """Read `folder/config.json`.

        Raises:
            ConfigError: the file is missing or not JSON, or a key is missing or out of range.
        """
        path = Path(folder) / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no model at {folder}: {path.name} is missing") from None
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise ConfigError(f"{path} must contain a JSON object")
        try:
            return cls.from_dict(raw)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """Build from the keys of `config.json`, or from the reference's `backbone_flavor` and `decoder_flavor`."""
        shared = {key: raw[key] for key in ("norm_eps", "rope_base", "rope_scale_factor") if key in raw}
        fields: dict[str, Any] = {
            key: raw[key] for key in ("max_seq_len", "speaker_space", "mimi", "sampling") if key in raw
        }
        for key in ("text_vocab_size", "audio_vocab_size", "audio_num_codebooks"):
            fields[key] = _integer(key, raw.get(key), at_least=1)
        return cls(**fields, backbone=_transformer(raw, "backbone", shared), depth=_transformer(raw, "decoder", shared))

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of `config.json`, which `from_dict` reads."""
        raw = asdict(self)
        raw["decoder"] = raw.pop("depth")
        return raw

    def __post_init__(self) -> None:
        _integer("text_vocab_size", self.text_vocab_size, at_least=1)
        _integer("audio_vocab_size", self.audio_vocab_size, at_least=RESERVED_CODES + 1)
        _integer("audio_num_codebooks", self.audio_num_codebooks, at_least=2)
        _integer("max_seq_len", self.max_seq_len, at_least=2)
        _check_sampling(self.sampling, self.audio_codes)


def _check_sampling(sampling: Any, audio_codes: int) -> None:
    if not isinstance(sampling, Mapping) or not sampling.keys() <= {"temperature", "top_k"}:
        raise ConfigError(f"sampling must be an object of temperature and top_k, got {sampling!r}")
    limits = INPUTS["TEMPERATURE"]
    temperature = sampling.get("temperature", limits.default)
    if not isinstance(temperature, int | float) or not limits.low <= temperature <= limits.high:
        raise ConfigError(f"sampling: temperature must be {limits.range}, got {temperature!r}")
    if "top_k" in sampling and _integer("sampling: top_k", sampling["top_k"], at_least=1) > audio_codes:
        raise ConfigError(f"sampling: top_k must be 1 to {audio_codes}, got {sampling['top_k']}")


def _transformer(raw: Mapping[str, Any], key: str, shared: Mapping[str, Any]) -> TransformerConfig:
    value = raw.get(key, raw.get(f"{key}_flavor"))
    if isinstance(value, str):
        if value not in FLAVORS:
            raise ConfigError(f"{key}: unknown flavour {value!r}; it must be one of {', '.join(FLAVORS)}")
        value = FLAVORS[value]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a flavour name or an object of dimensions, got {value!r}")
    try:
        return TransformerConfig(**{**shared, **value})
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"{key}: {error}") from None
