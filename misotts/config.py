"""The configuration of a model folder, `config.json`, and the constants that several stages share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from misotts.files import ConfigError as ConfigError
from misotts.files import file_fault, read_object, validated
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

SILENTCIPHER = ("hparams.yaml", "enc_c.ckpt", "dec_c.ckpt", "dec_m_0.ckpt")
"""Files of the watermark's networks, in the folder `silentcipher` of a model."""

MAX_UNACKNOWLEDGED = 8
"""Number of chunks of a stream that may be unacknowledged; the stream then pauses."""


Size = Annotated[int, Meta(ge=1, le=2**20)]
Layers = Annotated[int, Meta(ge=1, le=1_000)]
Vocabulary = Annotated[int, Meta(ge=1, le=2**24)]
Context = Annotated[int, Meta(ge=2, le=2**17)]
Epsilon = Annotated[float, Meta(gt=0, le=1)]
RopeBase = Annotated[float, Meta(ge=100, le=1e9)]
RopeScale = Annotated[float, Meta(ge=1, le=1_000)]


class TransformerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of one Llama transformer, with torchtune's names.

    RoPE is Llama 3's: low factor 1, high factor 4, original context 8192.
    """

    num_layers: Layers
    embed_dim: Size
    num_heads: Size
    num_kv_heads: Size
    intermediate_dim: Size
    norm_eps: Epsilon = 1e-5
    rope_base: RopeBase = 500_000.0
    rope_scale_factor: RopeScale = 32.0

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads or self.head_dim % 2:
            raise ConfigError(f"embed_dim {self.embed_dim} must be an even multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")


class Seanet(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sizes of Mimi's convolutions, with moshi's names; the defaults are the published codec."""

    dimension: Size = 512
    n_filters: Size = 64


class Quantizer(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sizes of Mimi's codebooks."""

    dimension: Size = 256
    bins: Vocabulary = 2048
    n_q: Annotated[int, Meta(ge=2, le=1_000)] = 32
    input_dimension: Size = 512
    output_dimension: Size = 512


class MimiTransformer(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sizes of Mimi's two transformers."""

    d_model: Size = 512
    num_heads: Size = 8
    num_layers: Layers = 8
    context: Size = 250
    layer_scale: Annotated[float, Meta(gt=0, le=1)] = 0.01
    dim_feedforward: Size = 2048
    input_dimension: Size = 512
    output_dimensions: Annotated[tuple[Size, ...], Meta(min_length=1, max_length=1)] = (512,)


class MimiConfig(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sizes of Mimi."""

    seanet: Seanet = Seanet()
    quantizer: Quantizer = Quantizer()
    transformer: MimiTransformer = MimiTransformer()

    def __post_init__(self) -> None:
        width, transformer, quantizer = self.seanet.dimension, self.transformer, self.quantizer
        widths = {
            "transformer.input_dimension": transformer.input_dimension,
            "transformer.output_dimensions": transformer.output_dimensions[0],
            "quantizer.input_dimension": quantizer.input_dimension,
            "quantizer.output_dimension": quantizer.output_dimension,
        }
        for name, found in widths.items():
            if found != width:
                raise ConfigError(f"{name} must be seanet.dimension, {width}, it is {found}")
        if transformer.d_model % transformer.num_heads or transformer.d_model // transformer.num_heads % 2:
            heads = f"transformer.num_heads {transformer.num_heads}"
            raise ConfigError(f"transformer.d_model {transformer.d_model} must be an even multiple of {heads}")


class Sampling(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model's own defaults, either or both, in place of the contract's."""

    temperature: Annotated[float, Meta(ge=INPUTS["TEMPERATURE"].low, le=INPUTS["TEMPERATURE"].high)] | None = None
    top_k: Size | None = None


FLAVORS: Mapping[str, dict[str, int]] = {
    "llama-8B": dict(num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, intermediate_dim=14336),
    "llama-1B": dict(num_layers=16, embed_dim=2048, num_heads=32, num_kv_heads=8, intermediate_dim=8192),
    "llama-300M": dict(num_layers=8, embed_dim=1536, num_heads=24, num_kv_heads=6, intermediate_dim=6912),
    "llama-100M": dict(num_layers=4, embed_dim=1024, num_heads=8, num_kv_heads=2, intermediate_dim=8192),
}


class ModelConfig(Struct, frozen=True, forbid_unknown_fields=True, rename={"depth": "decoder"}):
    """Sizes of a MisoTTS or CSM model. The JSON key of `depth`, the depth decoder, is `decoder`."""

    text_vocab_size: Vocabulary
    audio_vocab_size: Annotated[int, Meta(ge=RESERVED_CODES + 1, le=2**24)]
    audio_num_codebooks: Annotated[int, Meta(ge=2, le=1_000)]
    backbone: TransformerConfig
    depth: TransformerConfig
    max_seq_len: Context = 2048
    speaker_space: bool = True
    """True if a space follows the speaker tag: `[0] text` (MisoTTS), not `[0]text` (CSM-1B)."""
    mimi: MimiConfig = MimiConfig()
    sampling: Sampling = Sampling()

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
            ConfigError: the file cannot be read or is not JSON, or a key is missing, unknown or out of range.
        """
        path = Path(folder) / "config.json"
        if fault := file_fault(path):
            raise ConfigError(f"no model at {folder}: {path.name} {fault}")
        raw = read_object(path)
        try:
            return cls.from_dict(raw)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """Build from the keys of `config.json`. `backbone` and `decoder`, which the reference calls `backbone_flavor`
        and `decoder_flavor`, may be names of flavours; the keys of `Shared` count for both unless they state their own.

        Raises:
            ConfigError: one line that names the key, what is allowed and what came.
        """
        keys = dict(raw)
        known = [field.encode_name for field in fields(cls)] + list(Shared.__struct_fields__)
        if unknown := keys.keys() - {*known, "backbone_flavor", "decoder_flavor"}:
            raise ConfigError(f"{min(unknown)} is not a known key; known are {', '.join(known)}")
        shared = {key: keys.pop(key) for key in Shared.__struct_fields__ if key in keys}
        validated(shared, Shared)
        for part in ("backbone", "decoder"):
            if (flavor := f"{part}_flavor") in keys:
                if part in keys:
                    raise ConfigError(f"{part} and {flavor} are two names of one key; give one of them")
                keys[part] = keys.pop(flavor)
            if part in keys:
                keys[part] = _dimensions(part, keys[part], shared)
        return validated(keys, cls)

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of `config.json`, which `from_dict` reads."""
        raw: dict[str, Any] = msgspec.to_builtins(self)
        return raw

    def __post_init__(self) -> None:
        quantizer, top_k = self.mimi.quantizer, self.sampling.top_k
        if quantizer.bins != self.audio_codes:
            codes = f"audio_vocab_size {self.audio_vocab_size} less {RESERVED_CODES}"
            raise ConfigError(f"{codes} must be the codec's mimi.quantizer.bins, which is {quantizer.bins}")
        if self.audio_num_codebooks > quantizer.n_q:
            limit = f"mimi.quantizer.n_q, {quantizer.n_q}"
            raise ConfigError(f"audio_num_codebooks must be at most {limit}, it is {self.audio_num_codebooks}")
        if top_k is not None and top_k > self.audio_codes:
            raise ConfigError(f"sampling.top_k must be an integer from 1 to {self.audio_codes}, got {top_k}")


def check_model_folder(folder: Path) -> ModelConfig:
    """Check that this user may read the files, and return the configuration. What they hold is read by the stages.

    Raises:
        ConfigError: one line about the first file that cannot be used.
    """
    config = ModelConfig.load(folder)
    weights = "model.safetensors"
    if (folder / f"{weights}.index.json").exists():
        weights += ".index.json"
    for name in [weights, "tokenizer.json", "mimi.safetensors", *(f"silentcipher/{name}" for name in SILENTCIPHER)]:
        if fault := file_fault(folder / name):
            raise ConfigError(f"the model at {folder} cannot be used: {name} {fault}")
    return config


class Shared(Struct):
    """Keys that may stand beside `backbone` and `decoder` instead of in each."""

    norm_eps: Epsilon | None = None
    rope_base: RopeBase | None = None
    rope_scale_factor: RopeScale | None = None


def _dimensions(part: str, value: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dimensions of a transformer, which are given in full or by the name of a flavour."""
    if isinstance(value, str) and value in FLAVORS:
        return {**shared, **FLAVORS[value]}
    if isinstance(value, Mapping):
        return {**shared, **value}
    flavors = ", ".join(FLAVORS)
    raise ConfigError(f"{part} must be a flavour ({flavors}) or an object of dimensions, got {value!r}")
