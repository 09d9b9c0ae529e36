"""The mark at the start of streams: all frames held back, early marks, and a start without marks.

    python -m benchmarks.watermark_start MODEL [--clips 30]

MODEL/silentcipher is of a network with a lookahead. It marks streams of held-out speech, each with a random key; a
shorter one is the beginning of a longer one. Writes `results/watermark-start-<date>.json`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.progress import track

from benchmarks.record import save
from benchmarks.watermark import Samples, stream
from demo.silentcipher.distortions import DISTORTIONS, RATE
from demo.silentcipher.speech import speech
from misotts.watermark.detector import Detector
from misotts.watermark.key import symbols_of
from misotts.watermark.read_network import ReadNetwork
from misotts.watermark.watermarker import Watermarker, hold_back

LENGTHS_S = (10.0, 5.0, 2.5, 1.2)
DISTORTED = ("none", "8 kHz mu-law", "Opus 32k")
START_S = 1.0


def watermarkers(model: Path, key: bytes) -> dict[str, Watermarker]:
    early, unmarked = Watermarker(model, slots=1, key=key), Watermarker(model, slots=1, key=key)
    unmarked._timing.early.clear()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(model / "silentcipher", Path(folder) / "silentcipher")
        hparams = Path(folder) / "silentcipher" / "hparams.yaml"
        delay = {"delay_frames": hold_back(model).frames}
        hparams.write_text(yaml.safe_dump(yaml.safe_load(hparams.read_text()) | delay))
        held = Watermarker(Path(folder), slots=1, key=key)
    return {"all held back": held, "early marks": early, "unmarked start": unmarked}


def right_columns(network: ReadNetwork, audio: Samples, key: bytes) -> np.ndarray:
    """Return whether each column reads as the key's symbol, bool [columns]; the first has its window at the start."""
    read = network.read(audio).symbols.argmax(axis=1)
    symbols = np.array(symbols_of(key))
    right: np.ndarray = read == symbols[(np.arange(len(read)) + 1) % len(symbols)]
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--cache", type=Path, default=Path("out/speech"), help="folder of the synthesised speech")
    given = parser.parse_args()
    torch.set_num_threads(1)
    detector, network = Detector(given.model), ReadNetwork(given.model / "silentcipher")
    columns = int(START_S * network.config.SR / network.config.HOP_LENGTH)
    clips = np.split(speech("held-out", 10 * given.clips, given.cache, seed=1)[: 10 * RATE * given.clips], given.clips)
    findings: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    right: dict[tuple[str, ...], list[np.ndarray]] = defaultdict(list)
    for number, clip in enumerate(track(clips, description="streams")):
        rng = np.random.default_rng(number)
        key = rng.bytes(5)
        for way, watermarker in watermarkers(given.model, key).items():
            for seconds in LENGTHS_S:
                marked = stream(watermarker, clip[: int(seconds * RATE)])
                for name in DISTORTED:
                    heard = DISTORTIONS[name](marked, rng)
                    findings[f"{seconds:g} s", name, way][detector.check(heard, RATE, key).finding.value] += 1
                    if seconds == LENGTHS_S[0]:
                        right[name, way].append(right_columns(network, heard, key))
    figures: dict[str, Any] = {"network": {"lookahead": network.config.columns_ahead, "SR": network.config.SR}}
    figures["network"] |= {"N_FFT": network.config.N_FFT, "held_back": hold_back(given.model).frames}
    figures["findings"] = {", ".join(place): dict(counts) for place, counts in findings.items()}
    figures["columns_right"] = {
        ", ".join(place): {
            "first second": round(float(np.mean([each[:columns] for each in found])), 3),
            "after it": round(float(np.mean([each[columns:] for each in found])), 3),
        }
        for place, found in right.items()
    }
    print(save("watermark-start", figures))
    for part in ("findings", "columns_right"):
        print(*(f"{place}: {found}" for place, found in figures[part].items()), sep="\n")


if __name__ == "__main__":
    main()
