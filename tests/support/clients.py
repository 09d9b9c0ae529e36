"""Programs of other projects' clients, and their audio against gRPC's: for tests/clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from misotts.serve.local import RunningServer
from tests.support.client_environments import CLIENTS, NODE, PINNED, ROOT, python_of

SCRIPTS = PINNED / "scripts"
EXAMPLES = ROOT / "examples"
KEY = "test-key"

Samples = npt.NDArray[np.int16]


@dataclass
class Ran:
    """What a script has printed as JSON, and the folder of its files."""

    found: dict[str, Any]
    folder: Path

    def pcm(self, name: str) -> Samples:
        return np.frombuffer((self.folder / f"{name}.pcm").read_bytes(), "<i2")


def run_file(server: RunningServer, environment: str, file: Path, *arguments: Any, **variables: str) -> bytes:
    """Run a file in a client's environment, as if the client pointed at the server; return what it prints."""
    url = f"http://127.0.0.1:{server.ports.http}"
    pointing = {"MISOTTS_URL": url, "MISOTTS_WS": url.replace("http", "ws"), "MISOTTS_API_KEY": KEY}
    pointing |= {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY}
    if environment == "node":
        file = Path(shutil.copy(file, NODE))  # Node looks for packages beside the file
        command = ["node", file.name]
    else:
        command = [str(python_of(environment)), str(file)]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=NODE if environment == "node" else CLIENTS,
        env={**alone, **pointing, **variables},
        stdout=subprocess.PIPE,
        timeout=240,
        check=True,
    )
    return done.stdout


def assert_same(heard: Samples, wanted: Samples) -> None:
    """Assert that the audio is what gRPC gives, and then at most silence.

    Chunks of other sizes round differently in decode and watermark: by two of 32,767 steps at most.
    """
    assert len(heard) >= len(wanted)
    assert np.abs(heard[: len(wanted)].astype(int) - wanted).max() <= 2
    assert not np.abs(heard[len(wanted) :]).max(initial=0)


def assert_alike(heard: npt.NDArray[np.float32], wanted: npt.NDArray[np.floating[Any]]) -> None:
    """Assert that decoded audio [samples] is the other at some offset of up to 0.2 s, at the same level."""
    lag = int(np.argmax(np.correlate(heard[: len(wanted)], wanted[: -len(wanted) // 4], "full"))) - (
        len(wanted[: -len(wanted) // 4]) - 1
    )
    assert 0 <= lag < 0.2 * 48_000
    cut = heard[lag : lag + len(wanted)]
    both = wanted[: len(cut)]
    assert np.corrcoef(cut, both)[0, 1] > 0.9
    assert abs(20 * np.log10(np.std(cut) / np.std(both))) < 1
