"""What a voice costs: time to first audio without one, with one used for the first time, and with one used before.

    python -m benchmarks.voice [--times 15]

Through the real server. Every voice is a 10 s clip of its own. A first use reads, encodes and prefills the clip; a
second one finds its frames in the prompt stage and its blocks in the KV pool.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.record import save
from misotts.prompt.voices import add_voice
from misotts.serve.local import running_server
from misotts_client import Client

SECONDS = 10
RATE = 24_000
WARM_UP = 5


def make_voice(folder: Path, name: str, seed: int) -> None:
    """Noise that swells and fades: the codec and the model do the same work on it as on speech."""
    noise = np.random.default_rng(seed).standard_normal(SECONDS * RATE) * 0.1
    swell = np.abs(np.sin(np.arange(SECONDS * RATE) / RATE * np.pi))
    clip = folder / f"{name}-source.flac"
    soundfile.write(clip, noise * swell, RATE)
    add_voice(folder / "voices", name, clip, f"I am voice number {seed}, and this is what I sound like.")


def first_audio_ms(client: Client, voice: str | None) -> float:
    speech = client.speak("How long did you wait for me?", voice=voice, max_audio_ms=1_600)
    assert speech.ttfa_s is not None
    return speech.ttfa_s * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--times", type=int, default=15)
    arguments = parser.parse_args()
    names = [f"voice{number}" for number in range(arguments.times)]
    taken: dict[str, list[float]] = {"none": [], "first use": [], "second use": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "voices").mkdir()
        for number, name in enumerate(names):
            make_voice(Path(folder), name, number)
        with (
            running_server(arguments.model, f"--voices={folder}/voices") as server,
            Client(server.url) as client,
        ):
            for _ in range(WARM_UP):
                first_audio_ms(client, None)
            for name in names:  # in turn, so that a noisy machine is noisy to all three
                taken["none"].append(first_audio_ms(client, None))
                taken["first use"].append(first_audio_ms(client, name))
                taken["second use"].append(first_audio_ms(client, name))
            shared = server.metrics()["misotts_generate_prefix_blocks_shared_total"]
    figures = {use: round(statistics.median(times)) for use, times in taken.items()}
    print("median ms to first audio:", figures)
    extra = {use: round(figures[use] - figures["none"]) for use in ("first use", "second use")}
    print(save("voice", {"clip_s": SECONDS, "ttfa_median_ms": figures, "added_ms": extra, "blocks_shared": shared}))


if __name__ == "__main__":
    main()
