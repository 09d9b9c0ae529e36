"""The two files of a voice, checked: its clip as 24 kHz mono, and the words spoken in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from misotts.audio_file import AudioFileError, read_audio
from misotts.config import SAMPLE_RATE
from misotts_client.contract import MAX_TEXT

CLIP_SECONDS = (1.0, 30.0)
CLIP_RATES = (8_000, 192_000)
"""Hz."""
CLIP_LOUDNESS = (-60.0, 0.0)
"""dBFS, RMS. Audio of -1..1 cannot exceed 0, but floats written in the scale of integers do."""
MAX_CHANNELS = 2
MAX_TEXT_BYTES = 2**16
"""Size of the largest text file: 4 bytes for each code point, and the rest for white space around them."""

Audio = npt.NDArray[np.float32]


class VoiceError(ValueError):
    """A clip or a text is not fit for a voice; the message says what it must be and what it is."""


def read_clip(file: Path | BinaryIO) -> Audio:
    """Return an audio file as float32 [samples], 24 kHz mono: two channels are averaged, other rates resampled.

    Raises:
        VoiceError: it is not audio, or its channels, rate, length or loudness are out of their limits.
        OSError: it cannot be opened or read.
    """
    try:
        audio, rate = read_audio(file, limit_s=CLIP_SECONDS[1])  # a file of hours is refused without decoding all of it
    except AudioFileError as error:
        raise VoiceError(f"the clip {error}") from None
    if audio.shape[1] > MAX_CHANNELS:
        raise VoiceError(f"the clip must have 1 or {MAX_CHANNELS} channels, it has {audio.shape[1]}")
    _check("rate", rate, CLIP_RATES, "Hz")
    if len(audio) > CLIP_SECONDS[1] * rate:
        raise VoiceError(f"the clip's length must be {CLIP_SECONDS[0]:g} to {CLIP_SECONDS[1]:g} s, it is longer")
    _check("length", len(audio) / rate, CLIP_SECONDS, "s")
    mono = audio.mean(axis=1, dtype=np.float64)
    if not np.isfinite(mono).all():
        raise VoiceError("the clip must be finite, it has NaN or infinity")
    with np.errstate(divide="ignore"):  # digital silence is -inf dBFS
        # The deviation, not the plain RMS, because a constant offset is inaudible.
        _check("loudness", 20 * np.log10(mono.std()), CLIP_LOUDNESS, "dBFS")
    resampled: Audio = soxr.resample(mono, rate, SAMPLE_RATE).astype(np.float32)
    return resampled


def write_clip(audio: Audio) -> bytes:
    """Return audio float32 [samples], 24 kHz mono, as a FLAC file of 24 bits, which 16 would round."""
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def read_text(raw: bytes) -> str:
    """Return the words of a clip from the bytes of a text file, without its byte order mark and the white space at its
    end. White space at its beginning is the tokenizer's matter, as in TEXT.

    Raises:
        VoiceError: the text is not UTF-8, has only spaces, or is too long.
    """
    if len(raw) > MAX_TEXT_BYTES:
        raise VoiceError(f"the text file must be at most {MAX_TEXT_BYTES} bytes long, it is longer")
    try:
        text = raw.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise VoiceError(f"the text must be UTF-8, byte {error.start} is not") from None
    if not text:
        raise VoiceError("the text must contain the words of the clip, it is empty")
    if len(text) > MAX_TEXT:
        raise VoiceError(f"the text must be at most {MAX_TEXT} code points long, it is {len(text)}")
    return text


def _check(quantity: str, value: float, limits: tuple[float, float], unit: str) -> None:
    low, high = limits
    if not low <= value <= high:
        raise VoiceError(f"the clip's {quantity} must be {low:g} to {high:g} {unit}, it is {round(value, 3):g} {unit}")
