"""The time from the start of `misotts serve` to the first sample that is heard, by phase, and where its CPU time goes.

    python -m benchmarks.cold_start [--model models/demo] [--rounds 3] [--save]

Phases, in seconds since exec: the launcher's first line, the gateway is up, each stage begins to load, ready, the first
chunk with audio, the first audible sample. CPU times are those of each process until the server is ready.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.record import save
from benchmarks.usage import usage
from misotts.serve.local import RunningServer, start_server
from misotts.serve.settings import STAGES
from misotts_client import Client
from misotts_client.speech import Recording

TEXT = "Hello from Miso."
START_S = 400.0


def measure(model: Path) -> dict[str, Any]:
    """Start the server once; return the phases and the CPU times."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        began = time.time()
        server = start_server(model, ["--log-json"], stderr=log.fileno())
        try:
            server.wait_until_ready(START_S)
            cpu = {each.name: round(each.cpu_s, 2) for each in usage(server)}
            heard = _first_audio(server, began)
        finally:
            server.process.kill()
            server.process.wait()
        log.seek(0)
        lines = [json.loads(line) for line in log if line.startswith("{")]
    return {"phases_s": {**_phases(lines, began), **heard}, "cpu_s": cpu}


def _phases(lines: list[dict[str, str]], began: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in lines:
        at = datetime.fromisoformat(line["time"]).timestamp() - began
        name = "ready" if line["message"].startswith("ready after") else line["source"]
        found.setdefault(f"{name} loads" if name in STAGES else name, round(at, 2))
    return found


def _first_audio(server: RunningServer, began: float) -> dict[str, float]:
    """Ask for speech; return when the first chunk came, and when its first audible sample is played."""
    with Client(server.url) as client:
        asked, recording = time.time() - began, Recording()
        with client.stream(TEXT) as stream:
            for chunk in stream:
                recording.add(chunk)
                if (speech := recording.speech()).audible_ttfa_s is not None:
                    break
    assert speech.ttfa_s is not None
    assert speech.audible_ttfa_s is not None
    return {
        "first chunk": round(asked + speech.ttfa_s, 2),
        "first audible sample": round(asked + speech.audible_ttfa_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write the medians to benchmarks/results")
    asked = parser.parse_args()
    rounds = [measure(asked.model) for _ in range(asked.rounds)]
    medians = {
        part: {name: round(statistics.median(each[part][name] for each in rounds), 2) for name in rounds[0][part]}
        for part in ("phases_s", "cpu_s")
    }
    figures = {"rounds": asked.rounds, "load_average": round(os.getloadavg()[0], 1), **medians}
    print(json.dumps(figures, indent=1))
    if asked.save:
        print(save("cold-start", figures))


if __name__ == "__main__":
    main()
