"""Writes audio to a WAV file, chunk by chunk."""

import wave
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from misotts_client.contract import SAMPLE_RATE


class WavWriter:
    """A 16-bit PCM, 24 kHz mono WAV file that is valid after every write.

    The first write that has samples creates the file, so a refused request overwrites nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = ExitStack()
        self._wave: wave.Wave_write | None = None

    def write(self, audio: npt.NDArray[np.float32]) -> None:
        """Append audio [samples] float32, clipped to -1..1.

        Raises:
            OSError: the file cannot be written.
        """
        if not len(audio):
            return
        if self._wave is None:
            # Opened here: `wave`, given a path that it cannot open, prints another error when it is garbage-collected.
            file = self._files.enter_context(self._path.open("wb"))
            self._wave = self._files.enter_context(wave.Wave_write(file))
            self._wave.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        self._wave.writeframes(np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())

    def __enter__(self) -> "WavWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
