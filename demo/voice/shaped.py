"""The teacher's clips in the two voices: audio and the numbers of its frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import parselmouth
from parselmouth.praat import call

from demo.voice import teacher
from demo.voice.features import VOICES, as_clip, describe
from demo.voice.files import log, write_whole
from misotts.config import FRAME_SAMPLES, SAMPLE_RATE


@dataclass
class Shaped:
    """Clips that have audio, every second one in voice 1."""

    audio: list[np.ndarray]
    """int16 [frames x FRAME_SAMPLES] each."""
    numbers: list[np.ndarray]
    """float16 [frames, WIDTH] each: see `features`."""
    voices: list[int]


def change_voice(audio: np.ndarray, voice: int) -> np.ndarray:
    """The teacher's audio, float [samples] at 24 kHz, as the voice of SPEAKER 0 or 1 says it: the same length."""
    formants, pitch = VOICES[voice]
    sound = parselmouth.Sound(audio.astype(np.float64), SAMPLE_RATE)
    return call(sound, "Change gender", 60, 300, formants, pitch, 1.0, 1.0).values[0].astype(np.float32)


def voice_of(index: int) -> int:
    """In which voice the clip with this number has been shaped."""
    return index % 2


def shape(work: Path, with_audio: int) -> None:
    """Shape the first `with_audio` chunks of clips."""
    for number in range(with_audio):
        path = work / "shaped" / f"{number:04d}.npz"
        if path.exists():
            continue
        clips = teacher.load(work / "clips" / f"{number:04d}.npz")
        audio = [as_clip(change_voice(clip.audio / 32768, voice_of(n))) for n, clip in enumerate(clips)]
        numbers = [describe(clip).astype(np.float16) for clip in audio]
        with write_whole(path) as draft:
            samples = np.concatenate([(clip.clip(-1, 1) * 32767).astype(np.int16) for clip in audio])
            frames = np.array([len(rows) for rows in numbers])
            np.savez(draft, audio=samples, numbers=np.concatenate(numbers), frames=frames)
        log(f"shape: chunk {number} of {with_audio}")


def load(work: Path, chunks: int) -> Shaped:
    every = Shaped([], [], [])
    for number in range(chunks):
        one = load_chunk(work, number)
        every.audio += one.audio
        every.numbers += one.numbers
        every.voices += one.voices
    return every


def load_chunk(work: Path, number: int) -> Shaped:
    with np.load(work / "shaped" / f"{number:04d}.npz") as arrays:
        ends = arrays["frames"].cumsum()[:-1]
        voices = [voice_of(n) for n in range(len(arrays["frames"]))]
        return Shaped(np.split(arrays["audio"], ends * FRAME_SAMPLES), np.split(arrays["numbers"], ends), voices)
