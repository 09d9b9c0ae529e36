"""The cost of a voice: time to first audio without a voice, with one used for the first time, and for the second time.

    python -m benchmarks.voice [--times 15]

Through the real server. Every voice is a 10 s clip of its own. A first use reads, encodes and prefills the clip; a
second use finds its frames in the prompt stage and its blocks in the KV pool.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.record import save
from misotts.config import SAMPLE_RATE
from misotts.prompt.voices import add_voice
from misotts.serve.local import running_server
from misotts_client import Client

SECONDS = 10
WARM_UP = 5


def make_voice(folder: Path, name: str, seed: int) -> None:
    """Add a voice of noise that swells and fades; codec and model do the same work on it as on speech."""
    noise = np.random.default_rng(seed).standard_normal(SECONDS * SAMPLE_RATE) * 0.1
    swell = np.abs(np.sin(np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE * np.pi))
    clip = folder / f"{name}-source.flac"
    soundfile.write(clip, noise * swell, SAMPLE_RATE)
    add_voice(folder / "voices", name, clip, f"I am voice number {seed}, and this is what I sound like.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    parser.add_argument("--times", type=int, default=15)
    arguments = parser.parse_args()
    taken: dict[str, list[float]] = {"none": [], "first use": [], "second use": []}
    audible: dict[str, list[float]] = {use: [] for use in taken}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "voices").mkdir()
        names = [f"voice{number}" for number in range(arguments.times)]
        for number, name in enumerate(names):
            make_voice(Path(folder), name, number)
        with running_server(arguments.model, f"--voices={folder}/voices") as server, Client(server.url) as client:
            for _ in range(WARM_UP):
                client.speak("Warming up.", max_audio_ms=1_600)
            for name in names:
                # In turns, so that other work on the machine slows all three.
                for use, voice in zip(taken, (None, name, name), strict=True):
                    speech = client.speak("How long did you wait for me?", voice=voice, max_audio_ms=1_600)
                    assert speech.ttfa_s is not None
                    assert speech.audible_ttfa_s is not None
                    taken[use].append(speech.ttfa_s * 1000)
                    audible[use].append(speech.audible_ttfa_s * 1000)
            shared = server.metrics()["misotts_generate_prefix_blocks_shared_total"]
    figures = {use: round(statistics.median(times)) for use, times in taken.items()}
    print("median ms to first audio:", figures)
    heard = {use: round(statistics.median(times)) for use, times in audible.items()}
    print("to the first audible sample:", heard)
    extra = {use: round(figures[use] - figures["none"]) for use in ("first use", "second use")}
    medians = {"ttfa_median_ms": figures, "audible_ttfa_median_ms": heard, "added_ms": extra}
    print(save("voice", {"clip_s": SECONDS, **medians, "blocks_shared": shared}))


if __name__ == "__main__":
    main()
