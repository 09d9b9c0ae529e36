"""Makes a model folder from downloaded files and checks it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from misotts.config import FRAME_SAMPLES, SILENTCIPHER, ConfigError, ModelConfig
from misotts.decode.decoder import Decoder
from misotts.files import file_fault, read_object
from misotts.mimi import encode, load_mimi, read_mimi
from misotts.model.atomic_folder import atomic_folder
from misotts.model.checkpoint import Checkpoint
from misotts.model.csm_layout import config_from_csm
from misotts.model.meta_tokenizer import add_bos_and_eos, tokenizer_from_meta
from misotts.model.weight_files import CheckpointError, save_weights
from misotts.prompt.tokenizer import Tokenizer
from misotts.slots import Piece
from misotts.watermark.detector import Detector
from misotts.watermark.silentcipher import SilentCipherError
from misotts.watermark.watermarker import Watermarker

Progress = Callable[[str, int, int], object]
"""Called with the name of the file that is being written, the number of bytes written, and their total."""


@dataclass(frozen=True)
class Downloads:
    """Paths of the downloaded files."""

    weights: Path
    """Weights of MisoTTS or CSM-1B in any form that `open_weights` reads."""
    tokenizer: Path
    """`tokenizer.json`, or Meta's `tokenizer.model`."""
    mimi: Path
    """Safetensors file of moshi or Transformers."""
    silentcipher: Path
    """Folder of the 44.1 kHz model."""
    config: Path
    """The `config.json` of the weights, with the reference's keys, ours or Transformers'."""


def make_model_folder(folder: Path, downloads: Downloads, progress: Progress) -> None:
    """Write `folder`. If anything fails, no folder is left behind.

    Raises:
        FileExistsError: `folder` exists.
        ConfigError, CheckpointError, SilentCipherError: a file is missing, damaged, or does not fit the others.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} already exists")
    with atomic_folder(folder) as draft:
        config = _write_config(draft, downloads.config)
        _write_weights(draft, downloads.weights, config, progress)
        _write_tokenizer(draft, downloads.tokenizer)
        save_weights(draft / "mimi.safetensors", read_mimi(downloads.mimi, config).state_dict())
        _copy_silentcipher(draft, downloads.silentcipher)
        _check(draft, config)


def _write_config(draft: Path, source: Path) -> ModelConfig:
    raw = read_object(source)
    try:
        config = config_from_csm(raw) if "depth_decoder_config" in raw else ModelConfig.from_dict(raw)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    (draft / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    return config


def _write_weights(draft: Path, source: Path, config: ModelConfig, progress: Progress) -> None:
    weights = Checkpoint(source, config)
    total = sum(weights[name].nbytes for name in weights)
    written = 0

    def wrote(size: int) -> None:
        nonlocal written
        written += size
        progress("model.safetensors", written, total)

    save_weights(draft / "model.safetensors", weights, wrote)


def _write_tokenizer(draft: Path, source: Path) -> None:
    if fault := file_fault(source):
        raise ConfigError(f"no tokenizer at {source}: it {fault}")
    if source.suffix == ".json":
        try:
            tokenizer = HuggingFaceTokenizer.from_file(str(source))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{source} is not a tokenizer.json: {error}") from None
    else:
        tokenizer = tokenizer_from_meta(source)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    add_bos_and_eos(tokenizer)
    tokenizer.save(str(draft / "tokenizer.json"))


def _copy_silentcipher(draft: Path, source: Path) -> None:
    faults = [f"{name} {fault}" for name in SILENTCIPHER if (fault := file_fault(source / name))]
    if faults:
        raise SilentCipherError(f"no SilentCipher at {source}: {', '.join(faults)}")
    (draft / "silentcipher").mkdir()
    for name in SILENTCIPHER:
        shutil.copyfile(source / name, draft / "silentcipher" / name)


def _check(folder: Path, config: ModelConfig) -> None:
    """Read everything back as the stages do, and run one frame through the codec and the watermark."""
    if ModelConfig.load(folder) != config:
        raise ConfigError(f"{folder}: config.json differs from what was written")
    weights = Checkpoint(folder, config)
    for name in ("backbone.norm.scale", "decoder.norm.scale"):
        if not weights[name].isfinite().all():
            raise CheckpointError(f"{name} contains NaN or infinity")
    if len(Tokenizer(folder, config).encode("Hello.", speaker=0)) < 3:
        raise ConfigError(f"{folder}: tokenizer.json encodes 'Hello.' to fewer than 3 tokens; is it Llama 3's?")
    mimi = load_mimi(folder, config)
    codes = encode(mimi, np.zeros(FRAME_SAMPLES, np.float32))
    (audio,) = Decoder(mimi, slots=1).decode([Piece(0, True, codes)])
    Watermarker(folder, slots=1).mark([Piece(0, True, audio, last=True)])
    Detector(folder)
