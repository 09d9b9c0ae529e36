"""Watermarkers with other `hparams.yaml`, and streams in pieces."""

import shutil
from pathlib import Path

import numpy as np
import yaml

from misotts.config import FRAME_SAMPLES
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker

KEY = bytes([7, 250, 0, 133, 64])


def mark_in_pieces(watermarker: Watermarker, audio: np.ndarray, frames: list[int], slot: int = 0) -> list[np.ndarray]:
    """Stream `audio` in pieces of `frames`; the last piece takes the rest."""
    cuts = np.cumsum(frames) * FRAME_SAMPLES
    pieces = np.split(audio, cuts[cuts < len(audio)])
    last = len(pieces) - 1
    return [watermarker.mark([Piece(slot, n == 0, piece, n == last)])[0] for n, piece in enumerate(pieces)]


def with_hparams(source: Path, folder: Path, **changes: object) -> Path:
    """Make a model folder with the SilentCipher of `source` and `changes` of its `hparams.yaml`."""
    shutil.copytree(source, folder / "silentcipher")
    file = folder / "silentcipher" / "hparams.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    return folder
