"""Writes audio to a WAV file, chunk by chunk."""

import os
import struct
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from misotts_client.contract import SAMPLE_RATE

STANDARD_OUTPUT = Path("-")

UNKNOWN = 0xFFFFFFFF
"""What a header states while the length is not known; programs that play from a pipe read to its end."""


class WavWriter:
    """A 16-bit PCM, 24 kHz mono WAV file. The first write that has samples creates the file, so a refused request
    overwrites nothing.

    A file is valid after every write. A pipe, a terminal and standard output (`-`) get the samples as they come behind
    a header that does not state their number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = ExitStack()
        self._file: BinaryIO | None = None
        self._bytes = 0

    def write(self, audio: npt.NDArray[np.float32]) -> None:
        """Append audio [samples] float32, clipped to -1..1.

        Raises:
            OSError: the file cannot be written.
        """
        if not len(audio):
            return
        samples = np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()
        if self._file is None:
            self._open()
        assert self._file is not None
        self._file.write(samples)
        if self._states_length:
            self._bytes += len(samples)
            self._file.seek(0)
            self._file.write(_header(self._bytes))
            self._file.seek(0, os.SEEK_END)
        self._file.flush()

    def _open(self) -> None:
        # The descriptor, because Python would write to `sys.stdout` again at its end, and fail again.
        here = self._path == STANDARD_OUTPUT
        target = sys.stdout.fileno() if here else self._path
        self._file = self._files.enter_context(open(target, "wb", closefd=not here))  # noqa: SIM115
        # Standard output may be a file that had other content before.
        self._states_length = not here and self._file.seekable()
        self._file.write(_header(0 if self._states_length else None))

    def __enter__(self) -> "WavWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


def _header(size: int | None) -> bytes:
    """Return the 44 bytes before the samples; `size` is the number of bytes of the samples, None if it is unknown."""
    whole, data = (UNKNOWN, UNKNOWN) if size is None else (36 + size, size)
    form = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return struct.pack("<4sI4s4sI16s4sI", b"RIFF", whole, b"WAVE", b"fmt ", 16, form, b"data", data)
