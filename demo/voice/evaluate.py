"""Judges the speech of a model folder through the running server, with sentences that training never saw.

    python -m demo.voice.evaluate models/demo [--count 76]

Everything is said at the model's own temperature and top-k, the n-th text with seed n. The summary goes to
`benchmarks/results/demo-voice-<date>.json`. The exit status is 1 if a figure is outside its limit.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.record import save
from demo import dnsmos
from demo.model import REGISTERED
from demo.voice import features, judge, numbers, text
from demo.voice.files import log
from misotts.config import SAMPLE_RATE
from misotts.serve.local import running_server
from misotts.watermark.detector import Detector
from misotts_client import Client, Speech
from misotts_client.speech import Recording

ANY_SPEAKER = (0, 1, 7)
KEY = bytes([0x4D, 0x17, 0xC2, 0x9A, 0xE8])
MARKED_S = 5
"""Seconds of a clip in which the mark is looked for."""
LONG_TEXTS = [range(first, first + 4) for first in range(0, 32, 4)]
LONGEST_TEXTS = [range(57, 62), range(72, 75)]
"""Numbers of the held-out sentences that are one text. The teacher takes 11 to 12 s for the longest ones."""
MOST_S = 30
"""Seconds of a text that does not end by itself."""
LENGTHS = ((3, 5), (6, 8), (9, 14))
"""Words of the sentences that are counted together."""
LIMITS: Mapping[str, tuple[float, float]] = {
    "word_error_rate": (0, 0.25),
    "ended": (0.98, 1),
    "longest_to_teachers": (0, 1.6),
    "loudness": (0.06, 0.13),
    "seam_step": (0, 2),
    "dnsmos": (1.8, 5),
    "mark_found": (1, 1),
}
"""Least and most of a figure, by its name."""
LIMITS_OF_FEW = {**LIMITS, "word_error_rate": (0, 0.35)}
"""For numbers, and for the few words of the longest texts."""
PITCH_RANGE = 1.25
"""The median pitch lies within this factor of the teacher's, for a SPEAKER and after a registered voice. The two voices
differ by a factor of 1.6."""


@dataclass
class Said:
    """An utterance of the server, judged."""

    text: str
    speech: Speech
    seams: list[int]
    """Samples at which a chunk ends and the next one begins."""
    heard: str = field(init=False)

    def __post_init__(self) -> None:
        self.heard = judge.understand(self.audio)
        log(f"{self.text!r} was heard as {self.heard!r} ({self.speech.audio_s:.2f} s, {self.speech.finish})")

    @property
    def audio(self) -> np.ndarray:
        return self.speech.audio


@contextmanager
def connected(model: Path) -> Iterator[Client]:
    """A client of a server of the model, with the demo's registered voices and a watermark key of its own."""
    with tempfile.TemporaryDirectory() as folder:
        key_file, voices = Path(folder) / "key", Path(folder) / "voices"
        key_file.write_text(KEY.hex() + "\n", encoding="utf-8")
        shutil.copytree(REGISTERED, voices)  # the server keeps its codes of the voices beside them
        options = [f"--voices={voices}", "--no-allow-reference-key", f"--watermark-key-file={key_file}"]
        with running_server(model, *options) as server, Client(server.url) as client:
            yield client


def say(client: Client, texts: Sequence[str], most_s: float = MOST_S, **fields: Any) -> list[Said]:
    """Speak texts one after the other, with the fields of a request."""
    said = []
    for number, sentence in enumerate(texts):
        recording, lengths = Recording(), []
        with client.stream(sentence, seed=number, max_audio_ms=round(most_s * 1000), **fields) as stream:
            for chunk in stream:
                recording.add(chunk)
                lengths.append(len(chunk.audio))
        ends = np.cumsum(lengths)
        said.append(Said(sentence, recording.speech(), ends[ends < ends[-1]].tolist()))
    return said


def errors(said: Sequence[Said]) -> float:
    return round(judge.word_error_rate([one.text for one in said], [one.heard for one in said]), 3)


def pitch(said: Sequence[Said]) -> float:
    return round(float(np.median([judge.median_pitch(one.audio) for one in said])), 1)


def ended(said: Sequence[Said]) -> float:
    return round(float(np.mean([one.speech.finish == "eos" for one in said])), 4)


def median_ms(seconds: Iterable[float | None]) -> int:
    return round(1000 * float(np.median([each for each in seconds if each is not None])))


def of_speaker(client: Client, speaker: int, count: int, most_s: float = MOST_S) -> dict[str, Any]:
    """Speak so many of the held-out sentences, taken evenly, as a SPEAKER."""
    teachers = text.held_out()
    said = say(client, list(teachers)[:: max(1, len(teachers) // count)][:count], most_s, speaker=speaker)
    by_length = {}
    for least, most in LENGTHS:
        if some := [one for one in said if least <= len(text.words(one.text)) <= most]:
            by_length[f"{least}-{most} words"] = errors(some)
    ratios = [one.speech.audio_s / teachers[one.text] for one in said]
    return {
        "speaker": speaker,
        "sentences": len(said),
        "word_error_rate": errors(said),
        "by_length": by_length,
        "ended": ended(said),
        "mean_to_teachers": round(float(np.mean(ratios)), 2),
        "longest_to_teachers": round(max(ratios), 2),
        "loudness": round(float(np.median([features.loudness(one.audio) for one in said])), 3),
        "seam_step": round(max(judge.seam_step(one.audio, one.seams) for one in said), 2),
        "pitch_hz": pitch(said),
        "real_time_factor": round(float(np.median([one.speech.rtf for one in said])), 3),
        "ttfa_ms": median_ms(one.speech.ttfa_s for one in said),
        "audible_ttfa_ms": median_ms(one.speech.audible_ttfa_s for one in said),
        "leading_silence_ms": median_ms(one.speech.leading_silence_s for one in said),
    }


def of_numbers(client: Client, count: int, most_s: float = MOST_S) -> dict[str, Any]:
    """Speak sentences with numbers and abbreviations."""
    said = say(client, list(numbers.JUDGED)[:count], most_s)
    wanted = [judge.one_spelling(numbers.JUDGED[one.text]) for one in said]
    rate = judge.word_error_rate(wanted, [judge.one_spelling(one.heard) for one in said])
    return {"sentences": len(said), "word_error_rate": round(rate, 3), "ended": ended(said)}


def of_long_texts(client: Client, model: Path, texts: Sequence[range], most_s: float = MOST_S) -> dict[str, Any]:
    """Speak texts of several of the held-out sentences; look for the mark in the first seconds, and ask DNSMOS."""
    teachers = text.held_out()
    sentences = list(teachers)
    said = say(client, [" ".join(sentences[n] for n in numbers) for numbers in texts], most_s)
    teachers_s = [sum(teachers[sentences[n]] for n in numbers) for numbers in texts]
    detector = Detector(model)
    found = [detector.check(one.audio[: MARKED_S * SAMPLE_RATE], SAMPLE_RATE, KEY).key_matches for one in said]
    return {
        "texts": len(said),
        "word_error_rate": errors(said),
        "ended": ended(said),
        "mean_seconds": round(float(np.mean([one.speech.audio_s for one in said])), 1),
        "longest_seconds": round(max(one.speech.audio_s for one in said), 1),
        "longest_to_teachers": round(max(np.divide([one.speech.audio_s for one in said], teachers_s)), 2),
        "mark_found": round(float(np.mean(found)), 3),
        "dnsmos": round(float(np.mean([dnsmos.score(one.audio) for one in said])), 2),
    }


def of_voices(client: Client, count: int, most_s: float = MOST_S) -> list[dict[str, Any]]:
    """Speak after each registered voice, as every SPEAKER: pitch and spectrum should be the voice's."""
    clips = {name: soundfile.read(REGISTERED / f"{name}.flac", dtype="float32")[0] for name in features.NAMES}
    sentences = list(text.held_out())[10 : 10 + count]
    rows = []
    for name in clips:
        for speaker in ANY_SPEAKER:
            said = say(client, sentences, most_s, voice=name, speaker=speaker)
            audio = np.concatenate([one.audio for one in said])
            distances = {other: round(judge.spectral_distance(audio, clip), 2) for other, clip in clips.items()}
            rows.append(
                {"voice": name, "speaker": speaker, "sentences": len(said), "pitch_hz": pitch(said),
                 "clip_pitch_hz": round(judge.median_pitch(clips[name]), 1), "spectral_distance_db": distances,
                 "word_error_rate": errors(said), "ended": ended(said)}
            )  # fmt: skip
    return rows


def of_model(client: Client, model: Path, count: int, most_s: float = MOST_S) -> dict[str, Any]:
    """Return every figure: see the functions above. `count` is that of `of_speaker`; the others grow with it."""
    client.speak("Warming up.", max_audio_ms=800)  # the first utterance initialises libraries
    return {
        "speakers": [of_speaker(client, speaker, count, most_s) for speaker in range(len(features.VOICES))],
        "numbers": of_numbers(client, count // 3 or 1, most_s),
        "long_texts": of_long_texts(client, model, LONG_TEXTS[: count // 9 or 1], most_s),
        "longest_texts": of_long_texts(client, model, LONGEST_TEXTS[: count // 38 or 1], most_s),
        "registered_voices": of_voices(client, count // 12 or 1, most_s),
        "bytes": {path.name: path.stat().st_size for path in sorted(model.iterdir()) if path.is_file()},
    }


def faults(figures: Mapping[str, Any]) -> list[str]:
    """Name the figures of `of_model` that are outside their limits."""
    groups = [(f"SPEAKER {row['speaker']}", row, LIMITS) for row in figures["speakers"]]
    groups.append(("long texts", figures["long_texts"], LIMITS))
    groups += [(name, figures[name], LIMITS_OF_FEW) for name in ("longest_texts", "numbers")]
    found = []
    for group, row, limits in groups:
        for name, (least, most) in limits.items():
            if name in row and not least <= row[name] <= most:
                found.append(f"{group}: {name} is {row[name]}, outside {least} to {most}")
    for row in figures["speakers"]:
        found += _pitch_fault(f"SPEAKER {row['speaker']}", row["pitch_hz"], features.VOICES[row["speaker"]][1])
    for row in figures["registered_voices"]:
        found += _pitch_fault(
            f"voice {row['voice']} as SPEAKER {row['speaker']}", row["pitch_hz"], row["clip_pitch_hz"]
        )
    return found


def _pitch_fault(name: str, hertz: float, wanted: float) -> list[str]:
    near = wanted / PITCH_RANGE <= hertz <= wanted * PITCH_RANGE
    return [] if near else [f"{name}: the median pitch is {hertz} Hz, the teacher's {wanted} Hz"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=len(text.held_out()), help="held-out sentences for each SPEAKER")
    arguments = parser.parse_args()
    with connected(arguments.model) as client:
        figures = of_model(client, arguments.model, arguments.count)
    print(save("demo-voice", figures).read_text(encoding="utf-8"))
    found = faults(figures)
    for fault in found:
        print(f"outside its limit: {fault}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
