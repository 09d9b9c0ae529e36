"""Unmarked sounds that resemble a mark more than speech does: what does not change, and what repeats itself.

A function makes float32 [samples] at 24 kHz from a random generator. `KINDS` lists them by name.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

RATE = 24_000
MESSAGE_S = 0.42
"""Length of the demo network's message: 21 columns of 20 ms."""
NOTES = 440 * 2 ** (np.arange(-36, 37) / 12)

Samples = npt.NDArray[np.float32]
Rng = np.random.Generator
Sound = Callable[[int, Rng], Samples]


def _time(samples: int) -> npt.NDArray[np.float64]:
    return np.arange(samples) / RATE


def _partials(samples: int, frequencies: Iterable[float], levels: Iterable[float], rng: Rng) -> Samples:
    t = _time(samples)
    waves = [a * np.sin(2 * np.pi * (f * t + rng.random())) for f, a in zip(frequencies, levels, strict=True)]
    return np.sum(waves, axis=0).astype(np.float32)


def tone(samples: int, rng: Rng) -> Samples:
    """A sine, square or saw-tooth wave, or a siren of one; its period often divides the message's, a column's or a
    second."""
    base = rng.choice([1 / MESSAGE_S, 50, 25, 1, 0.1])
    frequency = base * max(round(10 ** rng.uniform(1.3, 3.6) / base), 1)
    turns = frequency * _time(samples) + rng.random()
    if rng.random() < 0.2:
        period = _period(rng)
        turns += rng.uniform(0, 0.3) * frequency * period * np.sin(2 * np.pi * _time(samples) / period)
    phase = turns % 1
    waves = [np.sin(2 * np.pi * phase), np.sign(phase - rng.uniform(0.1, 0.9)), 2 * phase - 1]
    return waves[rng.integers(3)].astype(np.float32)


def hum(samples: int, rng: Rng) -> Samples:
    """Mains hum: 50 or 60 Hz and its harmonics, with some noise."""
    mains = rng.choice([50.0, 60.0, 100.0, 120.0]) * (1 + rng.choice([0, 1e-4, 1e-3]) * rng.normal())
    count = int(rng.integers(3, 30))
    levels = rng.random(count) / np.arange(1, count + 1) ** rng.uniform(0, 1.5)
    wave = _partials(samples, [mains * (n + 1) for n in range(count)], levels, rng)
    return wave + np.float32(10 ** rng.uniform(-4, -1)) * _coloured(samples, rng)


def chord(samples: int, rng: Rng) -> Samples:
    """Two to five notes with harmonics, held, some with a tremolo."""
    roots = rng.choice(NOTES, size=int(rng.integers(2, 6)), replace=False)
    harmonics = int(rng.integers(1, 8))
    frequencies = [float(f * n) for f in roots for n in range(1, harmonics + 1) if f * n < RATE / 2]
    levels = [1 / (1 + n % harmonics) for n in range(len(frequencies))]
    tremolo = 1 + rng.choice([0.0, 0.01, 0.3]) * np.sin(2 * np.pi * _time(samples) / _period(rng))
    return (_partials(samples, frequencies, levels, rng) * tremolo).astype(np.float32)


def _coloured(samples: int, rng: Rng) -> Samples:
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** -rng.choice([0.0, 0.5, 1.0])
    wave = np.fft.irfft(spectrum, samples)
    return (wave / max(wave.std(), 1e-9)).astype(np.float32)


def noise(samples: int, rng: Rng) -> Samples:
    """White, pink or brown noise, some of it in a band, gated or looped."""
    wave = _coloured(samples, rng)
    way = rng.integers(4)
    if way == 1:
        low, high = np.sort(rng.uniform(50, 8_000, 2))
        spectrum, f = np.fft.rfft(wave), np.fft.rfftfreq(samples, 1 / RATE)
        wave = np.fft.irfft(spectrum * ((f > low) & (f < high + 100)), samples).astype(np.float32)
    elif way == 2:
        wave = np.resize(wave[: int(RATE * _period(rng))], samples)
    elif way == 3:
        wave = wave * (_time(samples) % _period(rng) < rng.uniform(0.02, 0.3))
    return wave.astype(np.float32)


def _period(rng: Rng) -> float:
    """Return a period in seconds: the message's, a fraction, nearly that, or any."""
    exact = MESSAGE_S * rng.choice([1, 1, 1, 1 / 2, 1 / 3, 1 / 7, 2, 1 / 21])
    return float(rng.choice([exact, exact * rng.uniform(0.99, 1.01), rng.uniform(0.1, 1.5)], p=[0.5, 0.2, 0.3]))


CALLS: dict[str, tuple[tuple[float, ...], float, float]] = {
    "dial, Europe": ((425,), 1, 0),
    "dial, North America": ((350, 440), 1, 0),
    "ringback": ((440, 480), 2, 4),
    "busy": ((480, 620), 0.5, 0.5),
    "reorder": ((480, 620), 0.25, 0.25),
    "fax": ((1_100,), 0.5, 3),
    "modem answer": ((2_100,), 3.3, 0),
}
KEYPAD = ((697, 770, 852, 941), (1_209, 1_336, 1_477, 1_633))


def telephone(samples: int, rng: Rng) -> Samples:
    """Signals of the telephone network, and digits of a keypad."""
    if rng.random() < 0.3:
        length, pause = rng.uniform(0.05, 0.25, 2)
        wave = np.zeros(samples, np.float32)
        for at in np.arange(0, samples / RATE, length + pause):
            part = slice(int(at * RATE), min(int((at + length) * RATE), samples))
            digit = [float(rng.choice(row)) for row in KEYPAD]
            wave[part] = _partials(part.stop - part.start, digit, (1, 1), rng)
        return wave
    frequencies, on, off = CALLS[str(rng.choice(list(CALLS)))]
    t = _time(samples) + rng.uniform(0, on + off)
    return (_partials(samples, frequencies, [1] * len(frequencies), rng) * (t % (on + off) < on)).astype(np.float32)


def clicks(samples: int, rng: Rng) -> Samples:
    """Clicks, beeps or drum beats at the message's own period, near it or at another, over noise, a hum or silence."""
    period, length = _period(rng), int(RATE * 10 ** rng.uniform(-3, -1.3))
    beats = [rng.standard_normal(length), np.sin(2 * np.pi * rng.uniform(50, 4_000) * _time(length)), np.ones(length)]
    beat = beats[rng.integers(3)] * np.exp(-np.arange(length) / length * rng.uniform(0, 6))
    wave = np.zeros(samples + length, np.float32)
    for at in np.arange(rng.uniform(0, period), samples / RATE, period):
        wave[int(at * RATE) : int(at * RATE) + length] += beat.astype(np.float32)
    behind = rng.choice([0, 1e-4, 1e-3, 1e-2, 1e-1])
    return wave[:samples] + np.float32(behind) * (_coloured if rng.random() < 0.5 else hum)(samples, rng)


def dither(samples: int, rng: Rng) -> Samples:
    """Silence of a 16-bit file, with its dither or without."""
    loudest = int(rng.integers(0, 3))
    return (rng.integers(-loudest, loudest + 1, samples) / 32_768).astype(np.float32)


def music(samples: int, rng: Rng) -> Samples:
    """Chords that change with a beat, over drums; often at the tempo of the message."""
    beat = _period(rng) * rng.choice([1, 1, 2])
    beat = beat if beat > 0.1 else beat * 21
    notes = [rng.choice(NOTES[12:60], size=3, replace=False) for _ in range(int(rng.integers(1, 5)))]
    t, wave = _time(samples), np.zeros(samples, np.float32)
    for number, at in enumerate(np.arange(0, samples / RATE, beat)):
        part = slice(int(at * RATE), min(int((at + beat) * RATE), samples))
        if part.stop > part.start:
            fade = np.exp(-(t[part] - at) / beat * rng.choice([0.5, 3]))
            wave[part] += _partials(part.stop - part.start, notes[number % len(notes)], (1, 0.7, 0.5), rng) * fade
            wave[part] += (rng.uniform(0, 2) * _coloured(part.stop - part.start, rng) * fade**20).astype(np.float32)
    return wave


KINDS: dict[str, Sound] = {
    "tone": tone,
    "hum": hum,
    "chord": chord,
    "noise": noise,
    "telephone": telephone,
    "clicks": clicks,
    "dither": dither,
    "music": music,
}


def stored(audio: Samples, rng: Rng) -> Samples:
    """Return the audio at a random loudness as it comes out of a file: floats, 16 bits, mu-law, MP3 or Vorbis."""
    if (peak := float(np.abs(audio).max())) > 1e-3:  # silence stays silence
        audio = (audio * (10 ** rng.uniform(-2, -0.1) / peak)).astype(np.float32)
    form = rng.choice(["float", "PCM_16", "PCM_16", "ULAW", "MP3", "VORBIS"])
    if form == "float":
        return audio
    kinds: dict[str, dict[str, Any]] = {
        "PCM_16": {"format": "WAV", "subtype": "PCM_16"},
        "ULAW": {"format": "WAV", "subtype": "ULAW"},
        "MP3": {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": rng.uniform(0.2, 0.8)},
        "VORBIS": {"format": "OGG", "subtype": "VORBIS", "compression_level": rng.uniform(0, 1)},
    }
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, **kinds[str(form)])
    file.seek(0)
    heard: Samples = soundfile.read(file, dtype="float32")[0]
    return heard


def mixture(samples: int, rng: Rng, sounds: Sequence[Sound]) -> Samples:
    """Add two sounds at random levels."""
    one, other = (sounds[n](samples, rng) for n in rng.choice(len(sounds), size=2, replace=False))
    return one + np.float32(10 ** rng.uniform(-2, 0.5)) * other


def excerpt(speech: Samples) -> Sound:
    """Return the sound of a random part of speech at a random pitch."""

    def part(samples: int, rng: Rng) -> Samples:
        step = rng.choice([0.85, 1.0, 1.0, 1.2])
        need = min(int(samples * step) + 2, len(speech))
        at = int(rng.integers(0, len(speech) - need + 1))
        return np.interp(np.arange(samples) * step, np.arange(need), speech[at : at + need]).astype(np.float32)

    return part
