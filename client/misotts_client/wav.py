"""Audio into a WAV file, chunk by chunk."""

import wave
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from misotts_client.chunk import SAMPLE_RATE


class WavWriter:
    """A 16-bit PCM, 24 kHz mono WAV file that is valid after every write.

    The file is made by the first write that has samples, so a request that is refused overwrites nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = ExitStack()
        self._wave: wave.Wave_write | None = None

    def write(self, audio: npt.NDArray[np.float32]) -> None:
        """Appends audio [samples] float32; what is beyond -1..1 is clipped.

        Raises:
            OSError: the file cannot be written.
        """
        if not len(audio):
            return
        if self._wave is None:
            # Opened here, since wave, given a path it cannot open, complains once more when it is collected.
            file = self._files.enter_context(self._path.open("wb"))
            self._wave = self._files.enter_context(wave.Wave_write(file))
            self._wave.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        self._wave.writeframes(np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())

    def __enter__(self) -> "WavWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()
