"""Reads files of audio to the end of their contents, whatever length their headers state."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from av.container import InputContainer

FORMATS = "wav,flac,mp3,ogg"
"""FFmpeg's names. Its other demuxers are not for files of strangers: a playlist, for one, opens further files."""

UNKNOWN_LENGTH = 0x7FFF_0000
"""Programs that write a WAV file to a pipe state 0, or a number from here to 2**32 - 1, as its length."""


class AudioFileError(ValueError):
    """A file that cannot be read as audio; the message begins with a verb: `is damaged`."""


def read_audio(file: Path | BinaryIO, limit_s: float = math.inf) -> tuple[npt.NDArray[np.float32], int]:
    """Return the audio of a WAV, FLAC, MP3 or Ogg file as float32 [samples, channels], and its rate in Hz.

    The audio is that of the whole file: also what lies beyond the length that a header states, and a second MP3, FLAC
    or Ogg stream that follows the first.

    Args:
        limit_s: reading ends after the first sample beyond this time.

    Raises:
        AudioFileError: it is not audio of these formats, is damaged, or its header and its contents disagree.
        OSError: the file cannot be opened or read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return read_audio(opened, limit_s)
    if file.seekable():
        _check_riff(file)
    import av  # 100 MB of libraries, which a server without voices does without

    try:
        with av.open(file, "r", options={"format_whitelist": FORMATS}) as container:
            return _decode(container, limit_s)
    except (av.error.FFmpegError, OSError) as error:
        # FFmpeg seeks to before the beginning of a file of a few bytes, which Python refuses.
        if isinstance(error, av.error.FFmpegError) or error.errno == errno.EINVAL:
            raise AudioFileError("is not a WAV, FLAC, MP3 or Ogg file, or is damaged") from None
        raise


def _decode(container: InputContainer, limit_s: float) -> tuple[npt.NDArray[np.float32], int]:
    import av

    if not container.streams.audio:
        raise AudioFileError("contains no audio, or is damaged")
    stream = container.streams.audio[0]
    # A decoder that meets damage otherwise leaves it out.
    stream.codec_context.options = {"err_detect": "explode"}
    to_float = av.AudioResampler(format="flt")  # interleaved
    pieces, samples, rate, channels = [], 0, stream.rate, stream.channels
    for frame in container.decode(stream):
        if (frame.sample_rate, len(frame.layout.channels)) != (rate, channels):
            raise AudioFileError("changes its rate or its channels")
        for converted in to_float.resample(frame):
            pieces.append(converted.to_ndarray().reshape(-1, channels))
            samples += converted.samples
        if samples > limit_s * rate:
            break
    else:
        # Frames of a FLAC file that are damaged are skipped without an error.
        if container.format.name == "flac" and samples < (stream.duration or 0):
            raise AudioFileError(f"is damaged: of {stream.duration} samples it has {samples}")
    if not samples:
        raise AudioFileError("contains no audio, or is damaged")
    return np.concatenate(pieces), rate


def _check_riff(file: BinaryIO) -> None:
    """Compare the lengths in a WAV file's header with the file: FFmpeg would end where the header does.

    Raises:
        AudioFileError: the audio ends before the length that is stated, or goes on after it.
    """
    kind, _, form = (file.read(n) for n in (4, 4, 4))
    size = file.seek(0, 2)
    at = 12
    while (kind, form) == (b"RIFF", b"WAVE") and at + 8 <= size:
        file.seek(at)
        chunk, length = file.read(4), int.from_bytes(file.read(4), "little")
        if chunk == b"RIFF" or not all(32 <= byte < 127 for byte in chunk):
            raise AudioFileError("is damaged: its header states a length at which it does not end")
        at += 8 + length + length % 2
        if chunk == b"data" and (length == 0 or length >= UNKNOWN_LENGTH):
            break
        if chunk == b"data" and at > size + 1:
            raise AudioFileError(f"is damaged: it ends {at - size} bytes before the length that its header states")
    file.seek(0)
