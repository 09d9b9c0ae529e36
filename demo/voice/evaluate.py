"""How well a model folder speaks sentences that training never saw, through the project's own engine."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo.voice import corpus, features, judge, teacher, text
from demo.voice.files import log
from misotts.config import FRAME_SAMPLES, SAMPLE_RATE
from misotts.synthesizer import Synthesizer
from misotts_client.request import Segment

MOST_MS = 30_000
"""What a text may last that does not end by itself."""
TOGETHER = 4
"""Sentences of a long text."""
NUMBERS = {
    "The room costs $85 a night.": "the room costs eighty five dollars a night",
    "Dr. Green will call you at 3 p.m.": "doctor green will call you at three p m",
    "My sister is 27 years old.": "my sister is twenty seven years old",
    "The bus leaves at 10:30 from gate 4.": "the bus leaves at ten thirty from gate four",
    "There are 365 days in a year.": "there are three hundred sixty five days in a year",
    "He was born on May 14, 1962.": "he was born on may fourteenth nineteen sixty two",
    "Mr. and Mrs. Wilson bought 12 eggs.": "mister and missis wilson bought twelve eggs",
    "About 40% of the seats are empty.": "about forty percent of the seats are empty",
    "The village is 6 km from the sea.": "the village is six kilometers from the sea",
    "The 2nd house on the left is ours.": "the second house on the left is ours",
}
"""Numbers and abbreviations in sentences that training never saw, and what should be heard."""
LENGTHS = ((3, 5), (6, 8), (9, 14))
"""Words of the sentences that are counted together."""


@dataclass
class Said:
    text: str
    heard: str
    seconds: float
    ended: bool
    pitch: float
    """The median, Hz."""


def speak_all(folder: Path, sentences: list[str], seed: int, fields: dict[str, Any]) -> tuple[list[Said], float]:
    """What a model makes of sentences with the request's `fields`, and the seconds of speech it makes in a second."""
    said, took, made = [], 0.0, 0.0
    with Synthesizer.load(folder) as synthesizer:
        for number, sentence in enumerate(sentences):
            began = time.perf_counter()
            chunks = list(synthesizer.stream(sentence, seed=seed + number, **{"max_audio_ms": MOST_MS, **fields}))
            audio = np.concatenate([chunk.audio for chunk in chunks])
            if number:  # the first loads codec and watermark
                took += time.perf_counter() - began
                made += len(audio) / SAMPLE_RATE
            ended = chunks[-1].finish == "eos"
            said.append(Said(sentence, judge.understand(audio), len(audio) / SAMPLE_RATE, ended, median_pitch(audio)))
    return said, made / max(took, 1e-9)


def median_pitch(audio: np.ndarray) -> float:
    """Hz, of the voiced moments; 0 where there are none."""
    whole = np.pad(audio, (0, -len(audio) % FRAME_SAMPLES))
    rows = features.describe(whole)
    pitch, voicing = rows[:, -2 * features.PITCHES :].reshape(-1, 2, features.PITCHES).transpose(1, 0, 2) / [
        [[18]],
        [[2.5]],
    ]
    voiced = voicing > 0.6
    return float(np.exp(np.median(pitch[voiced] / voicing[voiced])) * 130) if voiced.any() else 0.0


def summarise(said: list[Said]) -> dict[str, object]:
    by_length = {}
    for least, most in LENGTHS:
        some = [one for one in said if least <= len(text.words(one.text)) <= most]
        if some:
            by_length[f"{least}-{most} words"] = round(
                judge.word_error_rate([one.text for one in some], [one.heard for one in some]), 3
            )
    return {
        "sentences": len(said),
        "word_error_rate": round(judge.word_error_rate([one.text for one in said], [one.heard for one in said]), 3),
        "by_length": by_length,
        "ended": round(float(np.mean([one.ended for one in said])), 4),
        "mean_seconds": round(float(np.mean([one.seconds for one in said])), 2),
        "longest_seconds": round(max(one.seconds for one in said), 2),
        "median_pitch_hz": round(float(np.median([one.pitch for one in said])), 1),
    }


def evaluate(folder: Path, count: int, speaker: int, seed: int, fields: dict[str, Any]) -> dict[str, object]:
    """Speak so many held-out sentences with a voice and judge them."""
    sentences = text.held_out()
    sentences = sentences[:: max(1, len(sentences) // count)][:count]
    said, speed = speak_all(folder, sentences, seed, {"speaker": speaker, **fields})
    ratios = [one.seconds / taught for one, taught in zip(said, teacher_seconds(sentences), strict=True)]
    lengths = {"mean_of_teachers_length": round(float(np.mean(ratios)), 2), "most": round(max(ratios), 2)}
    for one in said:
        log(f"{one.text!r} was heard as {one.heard!r} ({one.seconds:.2f} s{'' if one.ended else ', no end'})")
    return {
        "speaker": speaker,
        "seed": seed,
        **fields,
        **summarise(said),
        "times_real_time": round(speed, 1),
        **lengths,
    }


def teacher_seconds(sentences: list[str]) -> list[float]:
    """How long the teacher's clips of these sentences are."""
    engine = teacher.Teacher()
    clips = [engine.speak((sentence, sentence), with_audio=False) for sentence in sentences]
    return [corpus.frames_of(clip) * FRAME_SAMPLES / SAMPLE_RATE for clip in clips]


def teacher_clip(voice: int) -> tuple[str, np.ndarray]:
    """About ten seconds of the teacher in a voice: its words, and float32 [samples]."""
    engine = teacher.Teacher()
    sentences = text.held_out()[-3:]
    spoken = [engine.speak((sentence, sentence), with_audio=True).audio / 32768 for sentence in sentences]
    return " ".join(sentences), features.as_clip(features.change_voice(np.concatenate(spoken), voice))


def follow(folder: Path, count: int, fields: dict[str, Any]) -> list[dict[str, object]]:
    """Speak after a clip of either voice, as every SPEAKER: the pitch should be the clip's."""
    found: list[dict[str, object]] = []
    for voice in range(len(features.VOICES)):
        words, clip = teacher_clip(voice)
        for speaker in (0, 1, 7):
            after = {"context": [Segment(words, speaker, clip)], "speaker": speaker, **fields}
            said, _ = speak_all(folder, text.held_out()[10 : 10 + count], 0, after)
            pitch = round(float(np.median([one.pitch for one in said])), 1)
            errors = judge.word_error_rate([one.text for one in said], [one.heard for one in said])
            ended = float(np.mean([one.ended for one in said]))
            of_clip = round(median_pitch(clip), 1)
            found.append(
                {"clip_of": voice, "clip_pitch_hz": of_clip, "speaker": speaker, "median_pitch_hz": pitch,
                 "word_error_rate": round(errors, 3), "ended": ended}
            )  # fmt: skip
    return found


def other_texts(folder: Path, count: int, fields: dict[str, Any]) -> dict[str, object]:
    """Numbers, and several sentences in one text."""
    said, _ = speak_all(folder, list(NUMBERS)[:count], 0, fields)
    numbers = judge.word_error_rate([NUMBERS[one.text] for one in said], [one.heard for one in said])
    sentences = text.held_out()
    texts = [" ".join(sentences[at : at + TOGETHER]) for at in range(0, len(sentences), 2 * TOGETHER)]
    long, _ = speak_all(folder, texts[:count], 0, fields)
    for one in said + long:
        log(f"{one.text!r} was heard as {one.heard!r} ({one.seconds:.2f} s{'' if one.ended else ', no end'})")
    return {"numbers_word_error_rate": round(numbers, 3), "several_sentences": summarise(long)}


def summary(work: Path, folder: Path, count: int, most_ms: int = MOST_MS) -> dict[str, object]:
    """Everything that is committed beside the weights."""
    sampling = json.loads((folder / "config.json").read_text(encoding="utf-8"))["sampling"]
    fields = {**sampling, "max_audio_ms": most_ms}
    voices = [evaluate(folder, count, speaker, 0, fields) for speaker in range(len(features.VOICES))]
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    minutes = {}
    for name in ("decoder", "encoder", "lm"):
        if (work / f"{name}.pt").exists():
            saved = torch.load(work / f"{name}.pt")
            minutes[name] = {"steps": saved["step"], "cpu_minutes": round(saved.get("cpu_seconds", 0) / 60, 1)}
    others = other_texts(folder, count, fields)
    following = follow(folder, min(count, 8), fields)
    return {"voices": voices, **others, "after_a_clip": following, "bytes": sizes, "training": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--speaker", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--top-k", type=int, default=20)
    a = parser.parse_args()
    sampling = {"temperature": a.temperature, "top_k": a.top_k}
    print(json.dumps(evaluate(a.folder, a.count, a.speaker, a.seed, sampling)))


if __name__ == "__main__":
    main()
