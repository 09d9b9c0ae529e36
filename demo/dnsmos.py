"""DNSMOS, which predicts how listeners would score speech."""

from __future__ import annotations

import numpy as np
import soxr

from misotts.config import SAMPLE_RATE

RATE = 16_000


def score(audio: np.ndarray) -> float:
    """Return the overall score, 1 to 5, of speech, float [samples] at 24 kHz, by the `speechmos` package."""
    from speechmos import dnsmos  # of the extra `watermark`; runs without scores do not need it

    heard = soxr.resample(audio.astype(np.float32), SAMPLE_RATE, RATE).clip(-1, 1)
    return float(dnsmos.run(heard, sr=RATE)["ovrl_mos"])
