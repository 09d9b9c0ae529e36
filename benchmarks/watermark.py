"""The watermark on held-out speech: detection of clean and distorted clips against the delay, and its audibility.

    python -m benchmarks.watermark [--voice demo] [--clips 200] [--marked 100] [--processes 2]

Writes `results/watermark-<voice>-<date>.json` and prints the tables of docs/watermark.md. Clips of 5 s are cut from
speech with sentences that training never saw, and streamed in the server's chunk sizes, each with a random key.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from rich.progress import track

from benchmarks.record import save
from demo import dnsmos
from demo.silentcipher.distortions import DISTORTIONS, RATE
from demo.silentcipher.networks import load_networks
from demo.silentcipher.speech import demo_speech, speech
from misotts.config import FRAME_SAMPLES
from misotts.slots import Piece
from misotts.watermark.detector import Detector, Verdict, judge, judge_each
from misotts.watermark.key import REFERENCE_KEY, symbols_of
from misotts.watermark.silentcipher import SPEECH_POWER
from misotts.watermark.watermarker import Watermarker

Samples = npt.NDArray[np.float32]

CLIP_S = 5
CHUNKS = (1, 1, 2, 4, 8)
"""Frames of a stream's chunks; the last size repeats."""
WRONG_KEYS = [bytes(row) for row in np.random.default_rng(2**32).integers(0, 256, (10, 5), np.uint8)]
NEAR = 10
"""Number of keys within one symbol, and within two, that a marked clip is judged with."""
DELAYS = (0, 1)
"""Frames held back; 1 marks every column."""


def trimmed(audio: Samples, rng: np.random.Generator) -> Samples:
    return audio[int(rng.uniform(0, 2) * RATE) :]


WAYS = {"none": DISTORTIONS["none"], "trimmed by 0 to 2 s at the start": trimmed} | DISTORTIONS


def stream(watermarker: Watermarker, clip: Samples) -> Samples:
    padded = np.pad(clip, (0, -len(clip) % FRAME_SAMPLES))
    sizes = list(CHUNKS) + [CHUNKS[-1]] * (len(padded) // FRAME_SAMPLES)
    cuts = np.cumsum(sizes) * FRAME_SAMPLES
    pieces = np.split(padded, cuts[cuts < len(padded)])
    last = len(pieces) - 1
    out = [watermarker.mark([Piece(0, n == 0, piece, n == last)])[0] for n, piece in enumerate(pieces)]
    return np.concatenate(out)[: len(clip)]


def near_key(key: bytes, count: int, rng: np.random.Generator) -> bytes:
    """Return a key that differs in so many symbols of two bits."""
    places = rng.choice(20, size=count, replace=False)
    change = sum(int(rng.integers(1, 4)) << 2 * int(place) for place in places)
    return (int.from_bytes(key, "big") ^ change).to_bytes(5, "big")


def mark_whole(folder: Path, clip: Samples, key: bytes) -> Samples:
    """Mark a clip as the published code does: at once, at the loudness of the whole clip, every column."""
    networks = load_networks(folder / "silentcipher")
    gain = np.float32(np.sqrt(SPEECH_POWER / np.mean(clip**2)))
    columns = len(clip) // networks.hparams["HOP_LENGTH"] + 1
    symbols = torch.tensor([symbols_of(key) * (columns // 21 + 1)])[:, :columns]
    with torch.no_grad():
        mark = networks.mark(torch.from_numpy(clip * gain)[None], symbols, torch.ones_like(symbols) == 1, sdr=36)
    return np.clip(clip + mark[0].numpy() / gain, -1, 1)


@cache
def detector_of(model: Path) -> Detector:
    """Return the detector, loaded once in each process."""
    torch.set_num_threads(1)
    return Detector(model)


def watermarkers_of(model: Path, key: bytes) -> dict[int, Watermarker]:
    """Return a watermarker for each delay."""
    watermarkers = {}
    for delay in DELAYS:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(model / "silentcipher", Path(folder) / "silentcipher")
            hparams = Path(folder) / "silentcipher" / "hparams.yaml"
            hparams.write_text(yaml.safe_dump(yaml.safe_load(hparams.read_text()) | {"delay_frames": delay}))
            watermarkers[delay] = Watermarker(Path(folder), slots=1, key=key)
    return watermarkers


@dataclass(frozen=True)
class Extent:
    """The measurements on a marked clip, beside the search for its mark."""

    distorted: bool
    """Apply all distortions."""
    delayed: bool
    """Repeat everything with a delay, and mark the whole clip at once."""
    scored: bool
    """Score by DNSMOS."""


def try_clip(model: Path, extent: Extent, number: int, clip: Samples) -> dict[str, Any]:
    detector, rng = detector_of(model), np.random.default_rng(number)
    key = rng.bytes(5)
    marked = {delay: stream(watermarker, clip) for delay, watermarker in watermarkers_of(model, key).items()}
    whole = mark_whole(model, clip, key)
    ratios = {f"delay {delay}": ratio_db(clip, audio) for delay, audio in marked.items()}
    result: dict[str, Any] = {"ratio_db": ratios | {"whole clip": ratio_db(clip, whole)}, "ways": {}}
    for delay, audio in marked.items():
        if delay and not extent.delayed:
            continue
        for name, way in (WAYS if extent.distorted else {"none": WAYS["none"]}).items():
            readings = detector.read(way(audio, rng), RATE)
            result["ways"][f"delay {delay}, {name}"] = judge(readings, key)
            if delay == 0 and name == "none":
                result["wrong keys"] = judge_each(readings, WRONG_KEYS)
                near = [near_key(key, count, rng) for count in (1, 2) for _ in range(NEAR)]
                result["near keys"] = judge_each(readings, near)
    if extent.delayed:
        result["ways"]["whole clip, none"] = detector.check(whole, RATE, key)
    if extent.scored:
        heard = {"clean": clip, "streamed": marked[0], "whole clip": whole}
        result["dnsmos"] = {name: dnsmos.score(audio) for name, audio in heard.items()}
    return result


def try_clean(model: Path, clip: Samples) -> dict[str, Any]:
    return {"wrong keys": judge_each(detector_of(model).read(clip, RATE), [REFERENCE_KEY, *WRONG_KEYS])}


def ratio_db(clip: Samples, marked: Samples) -> float:
    return float(10 * np.log10(np.mean(clip**2) / np.mean((marked - clip) ** 2)))


def run(tasks: Sequence[Callable[[], Any]], processes: int, title: str) -> list[Any]:
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(task) for task in tasks]
        return [future.result() for future in track(futures, description=title)]


def summarise(clean: list[dict[str, Any]], marked: list[dict[str, Any]]) -> dict[str, Any]:
    def row(name: str) -> dict[str, Any]:
        verdicts: list[Verdict] = [clip["ways"][name] for clip in marked if name in clip["ways"]]
        return {
            "clips": len(verdicts),
            "found": sum(verdict.key_matches for verdict in verdicts),
            "findings": dict(Counter(verdict.finding.value for verdict in verdicts)),
            "agreement": round(float(np.median([verdict.agreement for verdict in verdicts])), 3),
            "unmarked_worst": max(verdict.unmarked for verdict in verdicts),
            "another_key_worst": max(verdict.another_key for verdict in verdicts),
        }

    def findings(name: str, clips: list[dict[str, Any]]) -> dict[str, Any]:
        verdicts: list[Verdict] = [verdict for clip in clips for verdict in clip[name]]
        counts = dict(Counter(verdict.finding.value for verdict in verdicts))
        return {"clips": len(clips), "findings": counts, "least_unmarked": min(each.unmarked for each in verdicts)}

    scored = [clip["dnsmos"] for clip in marked if "dnsmos" in clip]
    return {
        "clean": findings("wrong keys", clean),
        "marked_wrong_keys": findings("wrong keys", marked),
        "marked_near_keys": findings("near keys", marked),
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


def show(figures: dict[str, Any]) -> None:
    print(
        "| distortion | found with the key | columns that agree, median | without a mark, worst | another key, worst |"
    )
    print("|---|---|---|---|---|")
    for name, row in figures["ways"].items():
        cells = (name, f"{row['found']} of {row['clips']}", f"{row['agreement']:.0%}")
        print("|", " | ".join((*cells, f"{row['unmarked_worst']:.0e}", f"{row['another_key_worst']:.0e}")), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--voice", choices=("joe", "demo"), default="joe", help="piper's voice or the model's")
    parser.add_argument("--clips", type=int, default=200, help="number of clean clips")
    parser.add_argument("--marked", type=int, default=100, help="number of these that are marked")
    parser.add_argument("--distorted", type=int, default=100, help="number of these that meet all distortions")
    parser.add_argument("--delayed", type=int, default=20, help="number of these that are marked with a delay too")
    parser.add_argument("--scored", type=int, default=40, help="number of these that DNSMOS scores")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=Path("out/speech"), help="folder of the synthesised speech")
    given = parser.parse_args()
    if given.voice == "joe":
        audio = speech("held-out", CLIP_S * given.clips, given.cache, seed=1)
    else:
        audio = demo_speech(given.model, CLIP_S * given.clips, given.cache)
    clips = np.split(audio[: given.clips * CLIP_S * RATE], given.clips)
    extents = [Extent(n < given.distorted, n < given.delayed, n < given.scored) for n in range(given.marked)]
    clean = run([partial(try_clean, given.model, clip) for clip in clips], given.processes, "clean")
    tasks = [partial(try_clip, given.model, *each) for each in zip(extents, range(given.marked), clips, strict=False)]
    figures = summarise(clean, run(tasks, given.processes, "marked"))
    print(save(f"watermark-{given.voice}", figures))
    show(figures)


if __name__ == "__main__":
    main()
