"""Registered voices: a folder of `<name>.wav|flac|mp3` with the words spoken in `<name>.txt`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile
import soxr

from misotts.config import SAMPLE_RATE
from misotts_client.errors import InvalidArgument, NotFound
from misotts_client.request import Segment

NAME = re.compile(r"[a-z0-9_-]{1,64}")
CLIP_SECONDS = (1.0, 30.0)
_SUFFIXES = (".wav", ".flac", ".mp3")


class Voices:
    """The voices of a folder, read when they are asked for: adding one needs no restart."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def clip(self, name: str) -> Path:
        """The voice's audio file.

        Raises:
            InvalidArgument: not a voice's name.
            NotFound: no such voice.
        """
        if not NAME.fullmatch(name):
            raise InvalidArgument("VOICE", f"must match {NAME.pattern}, got {name[:80]!r}")
        if self._folder:
            for suffix in _SUFFIXES:
                path = self._folder / f"{name}{suffix}"
                if path.is_file() and path.with_suffix(".txt").is_file():
                    return path
        raise NotFound("VOICE", f"no voice named {name!r} is registered")

    def segment(self, name: str, speaker: int) -> Segment:
        """The voice as the oldest segment of a prompt, spoken by `speaker`."""
        path = self.clip(name)
        text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        return Segment(text, speaker, read_clip(path))


def read_clip(path: Path) -> np.ndarray:
    """An audio file as float32 [samples], 24 kHz mono.

    Raises:
        InvalidArgument: the clip is not 1 to 30 s long.
    """
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    low, high = CLIP_SECONDS
    seconds = len(audio) / rate
    if not low <= seconds <= high:
        raise InvalidArgument("VOICE", f"the clip of {path.stem!r} must be {low:g} to {high:g} s, is {seconds:.2f} s")
    return soxr.resample(audio.mean(axis=1), rate, SAMPLE_RATE).astype(np.float32)
