"""Unmarked sounds against many keys: no verdict may find a mark.

    make watermark-soak

The network reads each clip once; every key is judged on that reading. Writes `results/watermark-soak-<date>.json`.
"""

from __future__ import annotations

import argparse
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rich.progress import track

from benchmarks.record import save
from benchmarks.watermark_sounds import KINDS, MESSAGE_S, RATE, Samples, Sound, excerpt, mixture, stored
from demo.silentcipher.speech import demo_speech
from misotts.watermark.detector import Detector, Finding, Reading, Readings, judge_each
from misotts.watermark.read_network import Columns

JOE = Path(__file__).parents[1] / "tests" / "speech" / "joe.flac"
LENGTHS = (0.8, 1.0, 1.0, 1.2, 1.5, 1.5, 2.0, 3.0)
"""Seconds; a clip's length is one of these."""


def sounds(model: Path, cache: Path) -> dict[str, Sound]:
    """Return all kinds of sounds by name."""
    voices = {"speech": soundfile.read(JOE, dtype="float32")[0], "demo voice": demo_speech(model, 300, cache)}
    kinds: dict[str, Sound] = KINDS | {name: excerpt(audio) for name, audio in voices.items()}
    return kinds | {"mixture": lambda samples, rng: mixture(samples, rng, list(kinds.values()))}


def clip(number: int, kinds: dict[str, Sound]) -> tuple[str, Samples]:
    """Return the kind and the samples of a clip, which depend on its number alone."""
    rng = np.random.default_rng([18, number])
    kind = list(kinds)[number % len(kinds)]
    samples = int(rng.choice(LENGTHS) * RATE)
    return kind, stored(kinds[kind](samples, rng), rng)


def read(number: int, kinds: dict[str, Sound], detector: Detector, folder: Path) -> tuple[str, Readings]:
    """Return a clip's kind and readings, which are stored in `folder`."""
    file = folder / f"{number:05}.pickle"
    if not file.is_file():
        kind, audio = clip(number, kinds)
        readings = detector.read(audio, RATE)
        phases = [[(phase.symbols, phase.repetition) for phase in piece[0].phases] for piece in readings.pieces]
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps((kind, readings.seconds, phases)))
    kind, seconds, phases = pickle.loads(file.read_bytes())
    pieces = [[Reading(1.0, [Columns(*phase) for phase in piece])] for piece in phases]
    return kind, Readings(pieces, seconds, audible_s=seconds, message_s=MESSAGE_S)


UNIFORM = [bytes([byte] * 5) for byte in (0x00, 0x55, 0xAA, 0xFF)]
"""Keys of equal symbols; the first is MisoTTS's published one."""
WRITTEN = [bytes.fromhex(key) for key in ("0001020304", "0102030405", "0123456789", "fedcba9876", "1b1b1b1b1b")]
WORDS = [b"hello", b"miso!", b"12345"]


def keys(number: int) -> dict[str, list[bytes]]:
    """Return the keys that a clip is judged with, by kind."""
    rng = np.random.default_rng([81, number])
    near = [(1 << int(bit) | 1 << int(other)).to_bytes(5, "big") for bit, other in rng.integers(0, 40, (2, 2))]
    return {
        "all symbols equal": UNIFORM,
        "within two symbols of the published one": near,
        "sequences": WRITTEN,
        "words": WORDS,
        "random": [rng.bytes(5) for _ in range(4)],
    }


def soak(clips: int, model: Path, cache: Path, folder: Path) -> dict[str, Any]:
    """Read and judge the clips; return the figures."""
    detector, kinds = Detector(model), sounds(model, cache)
    findings: dict[str, Counter[str]] = {name: Counter() for name in kinds}
    false: Counter[str] = Counter()
    least: dict[str, float] = {}
    judged, seconds, wrong = 0, 0.0, []
    for number in track(range(clips), description="clips"):
        kind, readings = read(number, kinds, detector, folder)
        seconds += readings.seconds
        for name, some in keys(number).items():
            for key, verdict in zip(some, judge_each(readings, some), strict=True):
                judged += 1
                findings[kind][verdict.finding.value] += 1
                least[name] = min(least.get(name, 1.0), verdict.unmarked)
                if verdict.finding in (Finding.THIS_KEY, Finding.ANOTHER_KEY) or verdict.marked:
                    false[name] += 1
                    wrong.append(f"clip {number}, {kind}, key {key.hex()}: {verdict.finding.value}")
    return {
        "clips": clips,
        "seconds": round(seconds),
        "verdicts": judged,
        "false": sum(false.values()),
        "false_verdicts": wrong[:20],
        "findings_by_sound": {name: dict(counts) for name, counts in findings.items()},
        "least_probability_by_key": least,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--cache", type=Path, default=Path("out/speech"), help="folder of the demo model's speech")
    parser.add_argument("--readings", type=Path, default=Path("out/watermark-readings"), help="folder of the readings")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures = soak(given.clips, given.model, given.cache, given.readings)
    print(save("watermark-soak", figures))
    print(f"{figures['false']} false verdicts of {figures['verdicts']} on {given.clips} clips")
    raise SystemExit(bool(figures["false"]))


if __name__ == "__main__":
    main()
