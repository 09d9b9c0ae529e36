"""Clips for tests of voices and the watermark."""

from pathlib import Path

import numpy as np
import soundfile

WORDS = "This is how I sound."


def tone(seconds: float = 1.5, rate: int = 24_000, level: float = 0.3) -> np.ndarray:
    """float64 [samples] of 440 Hz."""
    return level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def speech_like(samples: int, seed: int = 0) -> np.ndarray:
    """Return noise of varying loudness, float32 [samples], about as loud as speech."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.standard_normal(samples + 20), np.hanning(20), "valid")[:samples]
    swell = 0.5 + 0.5 * np.sin(np.arange(samples) / 3_000)
    return (0.03 * noise * swell).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = 24_000, subtype: str | None = None) -> Path:
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def folder_with_ann(path: Path) -> Path:
    """A folder with one voice, `ann`, as an operator's `cp` would leave it."""
    path.mkdir()
    write(path / "ann.wav", tone())
    (path / "ann.txt").write_text(WORDS + "\n")
    return path
