"""A picture of speech: the text, the waveform, and the spectrogram with each word where it is spoken."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soxr
from matplotlib.figure import Figure
from pocketsphinx import Decoder

from misotts.config import SAMPLE_RATE

RATE = 16_000
"""Sample rate of the recogniser."""
FRAMES_PER_S = 100
"""Unit of the recogniser's times."""
WINDOW, HOP = 1024, 240
"""Window and hop of the spectrogram, in samples."""
FLOOR_DB = -105


def words_in_time(audio: np.ndarray, text: str) -> list[tuple[str, float, float]]:
    """Find the words of a text in its speech, float32 [samples] at 24 kHz → words, with begin and end in s. The list
    is empty where the recogniser cannot match them."""
    decoder = Decoder(samprate=RATE, loglevel="FATAL")
    spoken = " ".join(re.findall(r"[a-z']+", text.lower()))
    samples = (soxr.resample(audio, SAMPLE_RATE, RATE).clip(-1, 1) * 32767).astype(np.int16).tobytes()
    try:
        decoder.set_align_text(spoken)
        decoder.start_utt()
        decoder.process_raw(samples, full_utt=True)
        decoder.end_utt()
        segments = list(decoder.seg() or [])
    except RuntimeError:  # a word that its dictionary lacks
        return []
    return [
        (re.sub(r"\(\d+\)", "", one.word), one.start_frame / FRAMES_PER_S, (one.end_frame + 1) / FRAMES_PER_S)
        for one in segments
        if one.word[0] not in "<["
    ]


def draw(audio: np.ndarray, text: str, path: Path) -> None:
    """Write the picture of speech, float32 [samples] at 24 kHz, as a PNG file."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    wave, spectrum = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2.4])
    figure.suptitle(text, fontsize=10)
    seconds = len(audio) / SAMPLE_RATE
    wave.plot(np.arange(len(audio)) / SAMPLE_RATE, audio, linewidth=0.4, color="tab:blue")
    wave.set(ylim=(-0.6, 0.6), yticks=[])
    floor = np.random.default_rng(0).normal(0, 1e-6, len(audio))  # digital silence has no logarithm
    spectrum.specgram(audio + floor, NFFT=WINDOW, Fs=SAMPLE_RATE, noverlap=WINDOW - HOP, vmin=FLOOR_DB, cmap="magma")
    spectrum.set(xlim=(0, seconds), ylim=(0, 9000), yticks=[0, 2000, 4000, 6000, 8000], xlabel="s", ylabel="Hz")
    for word, begin, end in words_in_time(audio, text):
        spectrum.text((begin + end) / 2, 8100, word, color="white", fontsize=8, ha="center")
        for edge in (begin, end):
            spectrum.axvline(edge, color="white", linewidth=0.3, alpha=0.5)
    figure.savefig(path, dpi=100)
