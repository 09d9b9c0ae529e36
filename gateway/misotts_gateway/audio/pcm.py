"""Formats without a codec: 16-bit PCM, WAV, mu-law and A-law."""

import struct

import numpy as np
import numpy.typing as npt

Audio = npt.NDArray[np.float32]

UNKNOWN_LENGTH = 0xFFFFFFFF
"""Both sizes in the header of a WAV file that is still being written. Players and decoders read it to its end."""


def to_int16(audio: Audio) -> npt.NDArray[np.int16]:
    """Return audio [samples] float32 as 16-bit samples, clipped to -1..1."""
    samples: npt.NDArray[np.int16] = np.rint(np.clip(audio, -1, 1) * 32767).astype("<i2")
    return samples


class PcmEncoder:
    """Little-endian 16-bit samples without a header."""

    def encode(self, audio: Audio) -> bytes:
        return to_int16(audio).tobytes()

    def finish(self) -> bytes:
        return b""


class FloatEncoder(PcmEncoder):
    """Little-endian 32-bit floats without a header."""

    def encode(self, audio: Audio) -> bytes:
        return audio.astype("<f4").tobytes()


class WavEncoder(PcmEncoder):
    """The same samples after a WAV header of unknown length.

    Args:
        rate: Hz.
    """

    def __init__(self, rate: int) -> None:
        self._header = wav_header(rate)

    def encode(self, audio: Audio) -> bytes:
        header, self._header = self._header, b""
        return header + super().encode(audio)

    def finish(self) -> bytes:
        return self._header


class G711Encoder:
    """One byte for each sample, by a table of all 65,536 samples.

    Args:
        table: see `MULAW` and `ALAW`.
    """

    def __init__(self, table: npt.NDArray[np.uint8]) -> None:
        self._table = table

    def encode(self, audio: Audio) -> bytes:
        return self._table[to_int16(audio).view(np.uint16)].tobytes()

    def finish(self) -> bytes:
        return b""


def wav_header(rate: int, samples: int | None = None) -> bytes:
    """Return the 44 bytes before 16-bit mono samples at `rate` Hz; without `samples` the length is unknown."""
    data = UNKNOWN_LENGTH if samples is None else 2 * samples
    riff = UNKNOWN_LENGTH if samples is None else 36 + data
    format_chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + format_chunk + struct.pack("<4sI", b"data", data)


def _g711_samples() -> npt.NDArray[np.int32]:
    """Return the sample that each index of a table stands for: the index is the sample's bits as an unsigned number."""
    return np.arange(65_536, dtype=np.uint16).view(np.int16).astype(np.int32)


def _mulaw_table() -> npt.NDArray[np.uint8]:
    linear = _g711_samples() >> 2  # G.711 takes 14 bits
    magnitude = np.minimum(np.abs(linear), 8_159) + 33
    segment = np.frexp(magnitude)[1] - 6
    code = np.minimum((segment << 4) | ((magnitude >> (segment + 1)) & 15), 0x7F)
    table: npt.NDArray[np.uint8] = (code ^ np.where(linear < 0, 0x7F, 0xFF)).astype(np.uint8)
    return table


def _alaw_table() -> npt.NDArray[np.uint8]:
    linear = _g711_samples() >> 3  # G.711 takes 13 bits
    magnitude = np.where(linear < 0, -linear - 1, linear)
    segment = np.maximum(np.frexp(magnitude)[1] - 5, 0)
    code = (segment << 4) | ((magnitude >> np.maximum(segment, 1)) & 15)
    table: npt.NDArray[np.uint8] = (code ^ np.where(linear < 0, 0x55, 0xD5)).astype(np.uint8)
    return table


MULAW = _mulaw_table()
"""[65536] uint8, indexed by a sample's 16 bits: its mu-law byte."""
ALAW = _alaw_table()
"""[65536] uint8, indexed by a sample's 16 bits: its A-law byte."""
