"""Distortions of audio that the watermark is trained with and judged by.

Each takes float32 [samples] at 24 kHz and returns the same number of samples.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

RATE = 24_000

Distortion = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def unchanged(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return audio


def resampled_16k(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _fit(audio, _resample(_resample(audio, RATE, 16_000), 16_000, RATE))


def mu_law_8k(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Telephone audio: 8 kHz, G.711 mu-law."""
    narrow = _through_file(_resample(audio, RATE, 8_000), 8_000, format="WAV", subtype="ULAW")
    return _fit(audio, _resample(narrow, 8_000, RATE))


def mp3_128k(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # libsndfile's compression level goes from 0 at MPEG-2's largest bit rate, 160k, to 1 at its smallest, 8k.
    level = (160 - 128) / 152
    return _fit(audio, _through_file(audio, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=level))


def opus_32k(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # For Opus it goes from 256k to 6k per channel.
    return _fit(audio, _through_file(audio, RATE, format="OGG", subtype="OPUS", compression_level=(256 - 32) / 250))


def noise_30_db(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    loudness = np.sqrt(np.mean(audio**2)) * 10 ** (-30 / 20)
    return audio + (loudness * rng.standard_normal(len(audio))).astype(np.float32)


def quieter_12_db(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a 16-bit file."""
    return _through_file(audio * np.float32(10 ** (-12 / 20)), RATE, format="WAV", subtype="PCM_16")


DISTORTIONS: dict[str, Distortion] = {
    "none": unchanged,
    "resampled to 16 kHz": resampled_16k,
    "8 kHz mu-law": mu_law_8k,
    "MP3 128k": mp3_128k,
    "Opus 32k": opus_32k,
    "gain -12 dB": quieter_12_db,
    "noise at 30 dB": noise_30_db,
}


def _resample(audio: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    return soxr.resample(audio, rate_in, rate_out)


def _fit(audio: np.ndarray, changed: np.ndarray) -> np.ndarray:
    return np.pad(changed, (0, max(len(audio) - len(changed), 0)))[: len(audio)]


def _through_file(audio: np.ndarray, rate: int, **kind: object) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, np.clip(audio, -1, 1), rate, **kind)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]
