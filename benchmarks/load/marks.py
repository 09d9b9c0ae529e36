"""Whether what callers heard carries the server's watermark: after the run, so that looking costs no call its time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.load.caller import Answer
from misotts.config import SAMPLE_RATE
from misotts.watermark.detector import Detector

LEAST_S = 1.5
"""Shorter audio may hold too little of the message."""


def check_marks(answers: Sequence[Answer], detector: Detector, key: bytes) -> int:
    """Mark answers without `key`'s watermark as failed, `UNMARKED`; return how many were looked at."""
    judged = [each for each in answers if each.audio and each.audio_s >= LEAST_S and not each.error]
    for answer in judged:
        if not detector.check(np.concatenate(answer.audio), SAMPLE_RATE, key).key_matches:
            answer.error = "UNMARKED"
    return len(judged)
