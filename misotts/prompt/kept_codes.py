"""The codes of registered voices, kept in files so that a server that starts again need not encode the clips."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

FOLDER = ".codes"
"""In the folder of voices, of which names that begin with a dot are no part."""

Audio = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Encode = Callable[[Audio, Callable[[], None]], Codes]


class KeptCodes:
    """Encodes clips, each once.

    Args:
        voices: the folder of voices; None: nothing is kept.
        codec: names the codec and the device it runs on; the codes of another one are not used.
        encode: see `misotts.prompt.builder.Encode`.
    """

    def __init__(self, voices: Path | None, codec: str, encode: Encode) -> None:
        self._folder = voices / FOLDER if voices else None
        self._codec, self._encode = codec.encode(), encode
        self._used: set[str] = set()

    def encode(self, audio: Audio, pause: Callable[[], None]) -> Codes:
        """Return the codes of a clip, int32 [frames, codebooks], from its file if there is one."""
        if self._folder is None:
            return self._encode(audio, pause)
        file = self._folder / f"{hashlib.sha256(self._codec + audio.tobytes()).hexdigest()}.npy"
        self._used.add(file.name)
        codes = _read(file)
        if codes is None:
            codes = self._encode(audio, pause)
            _write(file, codes)
        return codes

    def forget_others(self) -> None:
        """Delete the files of which no clip has been asked for: those of removed voices and of other codecs, and those
        that were not written to their ends."""
        for file in self._folder.glob("*.npy*") if self._folder else ():
            if file.name not in self._used:
                file.unlink(missing_ok=True)


def codec_name(weights: Path, device: str) -> str:
    """Return the name of a codec: its weights' file as it is now, and the device, which rounds in its own way."""
    status = weights.stat()
    return f"{status.st_size} {status.st_mtime_ns} {device}"


def _read(file: Path) -> Codes | None:
    try:
        codes = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # there is none, or it is damaged
        return None
    return codes if codes.dtype == np.int32 and codes.ndim == 2 else None


def _write(file: Path, codes: Codes) -> None:
    """Write a file; it appears whole or not at all. A folder that cannot be written keeps nothing."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(exist_ok=True)
        with draft.open("wb") as opened:
            np.save(opened, codes)
        draft.replace(file)
    except OSError as error:
        log.info("the codes of voices are not kept: %s", error)
