"""What a voice is made of, checked: the clip as 24 kHz mono, and the words spoken in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from misotts.config import SAMPLE_RATE
from misotts.prompt.limits import MAX_TEXT

CLIP_SECONDS = (1.0, 30.0)
CLIP_RATES = (8_000, 192_000)
"""Hz."""
CLIP_LOUDNESS = (-60.0, 0.0)
"""dBFS, RMS. Above 0 lies what no audio of -1..1 reaches: floats written in the scale of integers."""
MAX_CHANNELS = 2


class VoiceError(ValueError):
    """A clip or a text is not fit for a voice; says what it must be and what it is."""


def read_clip(file: Path | BinaryIO) -> np.ndarray:
    """An audio file as float32 [samples], 24 kHz mono: two channels are averaged, other rates resampled.

    Raises:
        VoiceError: no audio, or its channels, rate, length or loudness are out of their limits.
    """
    try:
        with soundfile.SoundFile(file) as sound:
            rate, channels = sound.samplerate, sound.channels
            if channels > MAX_CHANNELS:
                raise VoiceError(f"the clip must have 1 or {MAX_CHANNELS} channels, has {channels}")
            _check("rate", rate, CLIP_RATES, "Hz")
            # The header's length may be wrong, and a file of hours is not read to its end to be refused.
            audio = sound.read(int(CLIP_SECONDS[1] * rate) + 1, dtype="float32", always_2d=True)
            length = len(audio) if len(audio) <= CLIP_SECONDS[1] * rate else sound.frames
    except (soundfile.SoundFileError, TypeError):  # TypeError: a name that ends in .raw, which says nothing of its form
        raise VoiceError("the clip is no WAV, FLAC or MP3 file, or a damaged one") from None
    _check("length", length / rate, CLIP_SECONDS, "s")
    mono = audio.mean(axis=1, dtype=np.float64)
    if not np.isfinite(mono).all():
        raise VoiceError("the clip must be finite, has NaN or infinity")
    with np.errstate(divide="ignore"):  # digital silence is -inf dBFS
        # The deviation, not the plain RMS: a constant offset is not heard.
        _check("loudness", 20 * np.log10(mono.std()), CLIP_LOUDNESS, "dBFS")
    return soxr.resample(mono, rate, SAMPLE_RATE).astype(np.float32)


def write_clip(audio: np.ndarray) -> bytes:
    """Audio float32 [samples], 24 kHz mono, as a FLAC file. 24 bits keep what 16 would round."""
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def read_text(raw: bytes) -> str:
    """The words of a clip from a text file's bytes, without the spaces (and the byte order mark) around them.

    Raises:
        VoiceError: not UTF-8, nothing but spaces, or too long.
    """
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise VoiceError(f"the text must be UTF-8, byte {error.start} is not") from None
    if not text:
        raise VoiceError("the text must hold the words of the clip, is empty")
    if len(text) > MAX_TEXT:
        raise VoiceError(f"the text must be at most {MAX_TEXT} code points long, is {len(text)}")
    return text


def _check(what: str, value: float, limits: tuple[float, float], unit: str) -> None:
    low, high = limits
    if not low <= value <= high:
        raise VoiceError(f"the clip's {what} must be {low:g} to {high:g} {unit}, is {round(value, 3):g} {unit}")
