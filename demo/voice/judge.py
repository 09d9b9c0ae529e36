"""Judges of speech: a recogniser that is independent of the model, pitch, loudness and seams. Every clip is float32
[samples] at 24 kHz."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
import numpy as np
import soxr
from pocketsphinx import Decoder

from demo.voice import features
from demo.voice.text import words
from misotts.config import FRAME_SAMPLES, SAMPLE_RATE

RATE = 16_000
QUIET = np.zeros(RATE // 5, np.float32)
"""Silence that the recogniser is given before and after."""
AROUND = SAMPLE_RATE // 100
"""Samples on either side of a seam with which it is compared: 10 ms."""


SPELLINGS = {
    "mr": "mister", "mrs": "missis", "missus": "missis", "ms": "miz", "dr": "doctor", "st": "street", "ok": "okay",
    "for": "four", "fore": "four", "to": "two", "too": "two", "won": "one", "ate": "eight", "oh": "o",
    "etc": "et cetera", "am": "a m", "pm": "p m", "hours": "ours",
}  # fmt: skip
"""Words that sound the same, in one spelling: numbers and abbreviations cannot be told from them by ear."""


def understand(audio: np.ndarray) -> str:
    """Return the words that PocketSphinx hears, with the English model of its package. Each clip has a new decoder,
    because a decoder adapts to what it hears."""
    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    heard = soxr.resample(audio.astype(np.float32), SAMPLE_RATE, RATE)
    heard = np.concatenate([QUIET, heard / max(float(np.abs(heard).max()), 1e-3) * 0.5, QUIET])
    decoder.start_utt()
    decoder.process_raw((heard * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    return decoder.hyp().hypstr if decoder.hyp() else ""


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Compare texts with what was understood of them."""
    return float(jiwer.wer([" ".join(words(text)) for text in said], [" ".join(words(text)) for text in heard]))


def one_spelling(text: str) -> str:
    """Return the words of a text, with those of `SPELLINGS` in one spelling."""
    return " ".join(SPELLINGS.get(word, word) for word in words(text))


def median_pitch(audio: np.ndarray) -> float:
    """Return the median over the voiced moments in Hz; 0 where there are none."""
    pitches = features.pitches(np.pad(audio, (0, -len(audio) % FRAME_SAMPLES)))
    return float(np.median(pitches)) if len(pitches) else 0.0


def seam_step(audio: np.ndarray, seams: Sequence[int]) -> float:
    """Compare the step across each seam (between two chunks, in samples) with the largest step within 10 ms of it →
    the largest ratio. A click has a ratio far above 1."""
    steps = np.abs(np.diff(audio))
    ratios = [0.0]
    for seam in seams:
        near = np.delete(steps[max(0, seam - AROUND) : seam + AROUND], min(seam - 1, AROUND - 1))
        ratios.append(float(steps[seam - 1] / max(float(near.max()), features.AUDIBLE)))
    return max(ratios)


def spectrum(audio: np.ndarray) -> np.ndarray:
    """Return the mean spectrum of the louder half in dB, by mel bands, less its mean: float [BANDS]. It depends on the
    voice more than on what is said."""
    whole = np.pad(audio, (0, -len(audio) % FRAME_SAMPLES))
    mel = features.describe(whole)[:, : features.SPECTRA * features.BANDS].reshape(-1, features.BANDS)
    level = mel.mean(1)
    mean = mel[level > np.median(level)].mean(0)
    return (mean - mean.mean()) * 20 / np.log(10)


def spectral_distance(audio: np.ndarray, other: np.ndarray) -> float:
    """Return the root of the mean square of the difference between two clips' spectra, in dB."""
    return float(np.sqrt(np.mean((spectrum(audio) - spectrum(other)) ** 2)))
