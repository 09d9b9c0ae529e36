"""The watermark on held-out speech: found or not, clean and on its way, against delay, and what it costs the ear.

    python -m benchmarks.watermark [--clips 200] [--marked 100] [--processes 2]

Writes `results/watermark-<date>.json` and prints the tables of docs/watermark.md. Clips of 5 s are cut from speech
whose sentences training never saw, and streamed in the server's chunk sizes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.progress import track

from benchmarks.record import save
from demo.silentcipher.distortions import DISTORTIONS, RATE
from demo.silentcipher.networks import load_networks
from demo.silentcipher.speech import speech
from misotts.config import FRAME_SAMPLES
from misotts.slots import Piece
from misotts.watermark.detector import Detector, Readings, Verdict, judge
from misotts.watermark.silentcipher import SPEECH_POWER, symbols_of
from misotts.watermark.watermarker import Watermarker

CLIP_S = 5
CHUNKS = (1, 1, 2, 4, 8)
"""Frames of a stream's chunks; the last size goes on."""
KEY = bytes([0x4D, 0x17, 0xC2, 0x9A, 0xE8])
WRONG_KEYS = [bytes(row) for row in np.random.default_rng(5).integers(0, 256, (10, 5), np.uint8)]
REFERENCE_KEY = bytes(5)
DELAYS = (0, 1)
"""Frames held back; 1 marks every column."""


def trimmed(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return audio[int(rng.uniform(0, 2) * RATE) :]


WAYS = {"none": DISTORTIONS["none"], "trimmed by 0 to 2 s at the start": trimmed} | DISTORTIONS


def stream(watermarker: Watermarker, clip: np.ndarray) -> np.ndarray:
    padded = np.pad(clip, (0, -len(clip) % FRAME_SAMPLES))
    sizes = list(CHUNKS) + [CHUNKS[-1]] * (len(padded) // FRAME_SAMPLES)
    cuts = np.cumsum(sizes) * FRAME_SAMPLES
    pieces = np.split(padded, cuts[cuts < len(padded)])
    last = len(pieces) - 1
    out = [watermarker.mark([Piece(0, n == 0, piece, n == last)])[0] for n, piece in enumerate(pieces)]
    return np.concatenate(out)[: len(clip)]


def mark_whole(folder: Path, clip: np.ndarray) -> np.ndarray:
    """As the published code does it: at once, at the loudness of the whole clip, every column."""
    networks = load_networks(folder / "silentcipher")
    gain = np.float32(np.sqrt(SPEECH_POWER / np.mean(clip**2)))
    columns = len(clip) // networks.hparams["HOP_LENGTH"] + 1
    symbols = torch.tensor([symbols_of(KEY) * (columns // 21 + 1)])[:, :columns]
    with torch.no_grad():
        mark = networks.mark(torch.from_numpy(clip * gain)[None], symbols, torch.ones_like(symbols) == 1, sdr=36)
    return np.clip(clip + mark[0].numpy() / gain, -1, 1)


@cache
def models(model: Path) -> tuple[Detector, dict[int, Watermarker], Path]:
    """In each process once: the detector, a watermarker for each delay, and where the network lies."""
    torch.set_num_threads(1)
    watermarkers = {}
    for delay in DELAYS:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(model / "silentcipher", Path(folder) / "silentcipher")
            hparams = Path(folder) / "silentcipher" / "hparams.yaml"
            hparams.write_text(yaml.safe_dump(yaml.safe_load(hparams.read_text()) | {"delay_frames": delay}))
            watermarkers[delay] = Watermarker(Path(folder), slots=1, key=KEY)
    return Detector(model), watermarkers, model


@dataclass(frozen=True)
class Extent:
    """How much is measured on a marked clip, beside whether its mark is found."""

    distorted: bool
    """After everything that may happen on its way."""
    delayed: bool
    """All that with a delay, too, and on the whole clip."""
    scored: bool
    """By DNSMOS."""


def try_clip(model: Path, extent: Extent, number: int, clip: np.ndarray) -> dict[str, Any]:
    detector, watermarkers, folder = models(model)
    rng = np.random.default_rng(number)
    marked = {delay: stream(watermarker, clip) for delay, watermarker in watermarkers.items()}
    whole = mark_whole(folder, clip)
    result: dict[str, Any] = {"ratio_db": {f"delay {d}": ratio_db(clip, audio) for d, audio in marked.items()}}
    result["ratio_db"]["whole clip"] = ratio_db(clip, whole)
    result["ways"] = {}
    for delay, audio in marked.items():
        if delay and not extent.delayed:
            continue
        for name, way in (WAYS if extent.distorted else {"none": WAYS["none"]}).items():
            readings = detector.read(way(audio, rng), RATE)
            result["ways"][f"delay {delay}, {name}"] = told(judge(readings, KEY))
            if delay == 0 and name == "none":
                result["wrong keys"] = wrong_keys(readings)
    if extent.delayed:
        result["ways"]["whole clip, none"] = told(detector.check(whole, RATE, KEY))
    if extent.scored:
        result["dnsmos"] = {"clean": score(clip), "streamed": score(marked[0]), "whole clip": score(whole)}
    return result


def try_clean(model: Path, clip: np.ndarray) -> dict[str, Any]:
    readings = models(model)[0].read(clip, RATE)
    reference = judge(readings, REFERENCE_KEY).false_positive
    return told(judge(readings, KEY)) | {"wrong keys": wrong_keys(readings), "reference key": reference}


def told(verdict: Verdict) -> dict[str, Any]:
    return {
        "found": verdict.key_matches,
        "marked": verdict.marked,
        "false_positive": verdict.false_positive,
        "unmarked": verdict.unmarked,
        "agreement": verdict.agreement,
    }


def wrong_keys(readings: Readings) -> list[float]:
    return [judge(readings, key).false_positive for key in WRONG_KEYS]


def ratio_db(clip: np.ndarray, marked: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(clip**2) / np.mean((marked - clip) ** 2)))


def score(audio: np.ndarray) -> float:
    """DNSMOS's overall score, 1 to 5."""
    import soxr
    from speechmos import dnsmos

    return float(dnsmos.run(np.clip(soxr.resample(audio, RATE, 16_000), -1, 1), sr=16_000)["ovrl_mos"])


def run(tasks: Sequence[Callable[[], Any]], processes: int, words: str) -> list[Any]:
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(task) for task in tasks]
        return [future.result() for future in track(futures, description=words)]


def summarise(clean: list[dict[str, Any]], marked: list[dict[str, Any]]) -> dict[str, Any]:
    def row(name: str) -> dict[str, Any]:
        trials = [clip["ways"][name] for clip in marked if name in clip["ways"]]
        return {
            "clips": len(trials),
            "found": sum(trial["found"] for trial in trials),
            "marked": sum(trial["marked"] for trial in trials),
            "agreement": round(float(np.median([trial["agreement"] for trial in trials])), 3),
            "bound_median": float(np.median([trial["false_positive"] for trial in trials])),
            "bound_worst": max(trial["false_positive"] for trial in trials),
        }

    wrong = [bound for clip in (*clean, *marked) for bound in clip["wrong keys"]]
    scored = [clip["dnsmos"] for clip in marked if "dnsmos" in clip]
    return {
        "clean": {
            "clips": len(clean),
            "found": sum(clip["found"] for clip in clean),
            "marked": sum(clip["marked"] for clip in clean),
            "least_bound": min(clip["false_positive"] for clip in clean),
            "least_unmarked": min(clip["unmarked"] for clip in clean),
            "least_bound_of_the_reference_key": min(clip["reference key"] for clip in clean),
        },
        "wrong_keys": {"trials": len(wrong), "found": sum(b < 1e-6 for b in wrong), "least_bound": min(wrong)},
        "ways": {name: row(name) for name in marked[0]["ways"]},
        "ratio_db": {
            name: round(float(np.mean([clip["ratio_db"][name] for clip in marked])), 2)
            for name in marked[0]["ratio_db"]
        },
        "dnsmos": {
            name: {
                "clips": len(scored),
                "mean": round(float(np.mean([clip[name] for clip in scored])), 3),
                "mean_change": round(float(np.mean([clip[name] - clip["clean"] for clip in scored])), 3),
            }
            for name in (scored[0] if scored else {})
        },
    }


def tables(figures: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| what the audio met | found with the key | columns that agree, median | bound, median | bound, worst |"]
    lines.append("|---|---|---|---|---|")
    for name, row in figures["ways"].items():
        lines.append(
            f"| {name} | {row['found']} of {row['clips']} | {row['agreement']:.0%} | {row['bound_median']:.0e} "
            f"| {row['bound_worst']:.0e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--clips", type=int, default=200, help="clean clips")
    parser.add_argument("--marked", type=int, default=100, help="of these, marked")
    parser.add_argument("--distorted", type=int, default=100, help="of these, after all that happens on the way")
    parser.add_argument("--delayed", type=int, default=20, help="of these, with a delay too")
    parser.add_argument("--scored", type=int, default=40, help="of these, scored by DNSMOS")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path("out/speech"), help="where the speech is kept")
    arguments = parser.parse_args()
    audio = speech("held-out", CLIP_S * arguments.clips, arguments.cache, seed=1)
    clips = np.split(audio[: arguments.clips * CLIP_S * RATE], arguments.clips)
    clean = run([partial(try_clean, arguments.model, clip) for clip in clips], arguments.processes, "clean")
    marked = run(
        [
            partial(
                try_clip,
                arguments.model,
                Extent(n < arguments.distorted, n < arguments.delayed, n < arguments.scored),
                n,
                clip,
            )
            for n, clip in enumerate(clips[: arguments.marked])
        ],
        arguments.processes,
        "marked",
    )
    figures = summarise(clean, marked)
    print(save("watermark", figures))
    print(tables(figures))


if __name__ == "__main__":
    main()
