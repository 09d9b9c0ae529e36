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

from tests.support.client_environments import CLIENTS, NODE, PINNED, ROOT, python_of
from tests.support.gateway import RunningGateway
from tests.support.recording import Relay, Samples

SCRIPTS = PINNED / "scripts"
EXAMPLES = ROOT / "examples"
KEY = "test-key"


@dataclass
class Ran:
    """What a script has printed as JSON, and the folder of its files."""

    found: dict[str, Any]
    folder: Path

    def pcm(self, name: str) -> Samples:
        return np.frombuffer((self.folder / f"{name}.pcm").read_bytes(), "<i2")


def run_file(gateway: RunningGateway, environment: str, file: Path, *arguments: Any, **variables: str) -> bytes:
    """Run a file in a client's environment, which points at the gateway; return what it prints."""
    url = f"http://127.0.0.1:{gateway.http_port}"
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


def assert_recorded(heard: Samples, relay: Relay, text: str, another: Samples | None) -> None:
    """Assert that a client has heard, to the bit, what gRPC gave for one of its calls, and then at most silence.

    Each call is heard once. `another` is another call's audio of the same text and seed; None: it is no such call's,
    as the text was spoken after others of its conversation. Its chunks have other sizes, in which decode and watermark
    round differently: by two of 32,767 steps at most.
    """
    calls = [call for call in relay.calls if call.text == text and call.audio]
    far = [distance(heard, call.samples) for call in calls]
    assert 0 in far, f"the calls for {text!r} differ by {far} steps from what the client has heard"
    call = calls[far.index(0)]
    relay.calls.remove(call)
    if another is not None:
        assert len(call.samples) == len(another)
        assert distance(call.samples, another) <= 2


def distance(heard: Samples, wanted: Samples) -> int:
    """Return the largest difference in steps, also from silence behind `wanted`; 65,536 if samples are missing."""
    if len(heard) < len(wanted):
        return 65_536
    return int(np.abs(heard.astype(int) - np.pad(wanted, (0, len(heard) - len(wanted)))).max(initial=0))


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
