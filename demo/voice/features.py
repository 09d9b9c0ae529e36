"""A frame of speech in numbers: eight log-mel spectra, four pitches and four voicings.

They describe the audio LATE samples before the frame's end, so that no window reaches past the end of its frame and a
causal encoder can find the same numbers. The decoder's audio is late by as much.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import scipy.fft

from misotts.config import FRAME_SAMPLES, SAMPLE_RATE

LATE = 480
LEAD, TAIL = 960, 1440
"""Samples of silence before and (at least) behind the speech of a clip."""
AUDIBLE = 0.01
LOUDNESS = 0.09
"""Root of the mean square of a clip's samples above AUDIBLE."""
VOICES = ((1.12, 110.0), (1.2, 175.0))
"""SPEAKER 0 and 1: the factor by which the teacher's formants are raised, and the median pitch in Hz.

The recogniser understands both better than the teacher as it is (a pitch of 90 Hz): word error rates of 0.05 and 0.04
against 0.09."""
NAMES = ("low", "high")
"""Names of these voices as registered ones."""
BANDS, WINDOW, HOP = 80, 1024, 240
SPECTRA = FRAME_SAMPLES // HOP
PITCH_HOP = 480
PITCHES = FRAME_SAMPLES // PITCH_HOP
WIDTH = SPECTRA * BANDS + 2 * PITCHES
"""Numbers of a frame: 648."""
FLOOR = 0.02
LAGS = (SAMPLE_RATE // 400, SAMPLE_RATE // 60)
"""Shortest and longest period of a voice, in samples."""


def loudness(audio: np.ndarray) -> float:
    """Return the root of the mean square of the audible samples; the teacher's clips have LOUDNESS."""
    loud = audio[np.abs(audio) > AUDIBLE]
    return float(np.sqrt(np.mean(loud**2))) if len(loud) else 0.0


def as_clip(speech: np.ndarray) -> np.ndarray:
    """Speech at the loudness of all clips, between silences, float32 [frames x FRAME_SAMPLES]."""
    gain = LOUDNESS / (loudness(speech) or 1.0)
    audio = np.pad((speech * gain).astype(np.float32), (LEAD, TAIL))
    return np.pad(audio, (0, -len(audio) % FRAME_SAMPLES))


def clip_frames(speech_samples: int) -> int:
    """Number of frames of a clip with this many samples of speech."""
    return -(-(LEAD + speech_samples + TAIL) // FRAME_SAMPLES)


@cache
def mel_bank() -> np.ndarray:
    """float32 [WINDOW / 2 + 1, BANDS]: triangles that each sum to 1."""
    edges = 700 * (np.exp(np.linspace(0, np.log1p(11_000 / 700), BANDS + 2)) - 1)
    hertz = np.arange(WINDOW // 2 + 1)[:, None] * SAMPLE_RATE / WINDOW
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bank = np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clip(0)
    return (bank / bank.sum(0).clip(1e-6)).astype(np.float32)


def describe(clip: np.ndarray) -> np.ndarray:
    """Numbers of a clip's frames, float32 [frames, WIDTH]."""
    late = np.pad(clip, (WINDOW - HOP + LATE, 0))[: len(clip) + WINDOW - HOP]
    windows = np.lib.stride_tricks.sliding_window_view(late, WINDOW)[::HOP]
    hann = np.hanning(WINDOW).astype(np.float32)
    spectra = np.abs(scipy.fft.rfft(windows * hann, axis=1))
    mel = np.log((spectra @ mel_bank()).clip(FLOOR))
    pitch, voicing = _pitch(windows[PITCH_HOP // HOP - 1 :: PITCH_HOP // HOP], hann)
    frames = len(clip) // FRAME_SAMPLES
    rows = (mel, 18 * pitch * voicing, 2.5 * voicing)
    return np.concatenate([row.reshape(frames, -1) for row in rows], axis=1).astype(np.float32)


def pitches(clip: np.ndarray) -> np.ndarray:
    """The pitch of a clip's voiced moments in Hz, float [moments]."""
    columns = describe(clip)[:, -2 * PITCHES :].reshape(-1, 2, PITCHES)
    voicing = columns[:, 1] / 2.5
    voiced = voicing > 0.6
    return np.exp(columns[:, 0][voiced] / 18 / voicing[voiced]) * 130


def _pitch(windows: np.ndarray, hann: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log pitch (0 at 130 Hz) and voicing (0 to 1) of each window, by autocorrelation."""

    def correlate(signal: np.ndarray) -> np.ndarray:
        return scipy.fft.irfft(np.abs(scipy.fft.rfft(signal, 2 * WINDOW)) ** 2)[..., : LAGS[1] + 1]

    own = correlate(windows * hann)
    shape = own / (own[:, :1] + 1e-3) / (correlate(hann) / correlate(hann)[0])
    lags = np.arange(*LAGS)
    score = shape[:, LAGS[0] : LAGS[1]] - 0.06 * np.log2(lags / LAGS[0])
    best = score.argmax(1)
    strength = shape[np.arange(len(best)), LAGS[0] + best]
    return np.log(SAMPLE_RATE / lags[best] / 130), ((strength - 0.3) / 0.4).clip(0, 1)
