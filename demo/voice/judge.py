"""What a recogniser that knows nothing of the model understands: PocketSphinx, its English model in the package."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
import numpy as np
import soxr
from pocketsphinx import Decoder

from demo.voice.text import words
from misotts.config import SAMPLE_RATE

RATE = 16_000
QUIET = np.zeros(RATE // 5, np.float32)
"""Silence that the recogniser is given before and after."""


def understand(audio: np.ndarray) -> str:
    """The words of a clip, float32 [samples] at 24 kHz. A decoder for each clip: it adapts to what it hears."""
    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    heard = soxr.resample(audio.astype(np.float32), SAMPLE_RATE, RATE)
    heard = np.concatenate([QUIET, heard / max(float(np.abs(heard).max()), 1e-3) * 0.5, QUIET])
    decoder.start_utt()
    decoder.process_raw((heard * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    return decoder.hyp().hypstr if decoder.hyp() else ""


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Of texts and what was understood of them."""
    return float(jiwer.wer([" ".join(words(text)) for text in said], [" ".join(words(text)) for text in heard]))
