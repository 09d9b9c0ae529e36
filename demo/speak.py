"""Start the server, speak one sentence through it, report the time of each stage, draw the speech, and stop the server.

python -m demo.speak [--model models/demo] [--text "Good morning."] [--out out/demo.wav]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from demo.picture import draw
from misotts.serve.local import RunningServer, running_server
from misotts.serve.settings import STAGES
from misotts_client import Client, Speech
from misotts_client.errors import MisoError
from misotts_client.wav import WavWriter

TEXT = "Hello. This is the voice of a small model, and it speaks on your own computer."
PUBLISH_S = 0.6  # stages publish their metrics every half second


def speak(model: Path, text: str, out: Path) -> None:
    with running_server(model) as server, Client(server.url) as client:
        client.speak("Warming up.", max_audio_ms=800)  # the first utterance initialises libraries
        before = busy_seconds(server)
        speech = client.speak(text)
        after = busy_seconds(server)
    out.parent.mkdir(parents=True, exist_ok=True)
    with WavWriter(out) as wav:
        wav.write(speech.audio)
    picture = out.with_suffix(".png")
    draw(speech.audio, text, picture)
    print_report(out, picture, text, speech, {stage: after[stage] - before[stage] for stage in STAGES})


def busy_seconds(server: RunningServer) -> dict[str, float]:
    """Return the seconds that each stage has been busy since it started, by its next published metrics."""
    time.sleep(PUBLISH_S)
    metrics = server.metrics()
    return {stage: metrics[f"misotts_{stage}_busy_seconds_total"] for stage in STAGES}


def print_report(out: Path, picture: Path, text: str, speech: Speech, busy: dict[str, float]) -> None:
    assert speech.ttfa_s is not None
    print(f'"{text}" -> {out}, {speech.audio_s:.2f} s of audio, seed {speech.seed}')
    print(f"waveform, spectrogram and words -> {picture}")
    print(f"time to first audio  {speech.ttfa_s * 1000:6.0f} ms")
    if speech.audible_ttfa_s is not None and speech.leading_silence_s is not None:
        print(f"audible after        {speech.audible_ttfa_s * 1000:6.0f} ms")
        print(f"leading silence      {speech.leading_silence_s * 1000:6.0f} ms")
    print(f"real-time factor     {speech.rtf:6.2f}")
    for stage, seconds in busy.items():
        print(f"{stage:<20} {seconds * 1000:6.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--out", type=Path, default=Path("out/demo.wav"))
    arguments = parser.parse_args()
    try:
        speak(arguments.model, arguments.text, arguments.out)
    except (MisoError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
