"""One demo server for all clients, and what it says over gRPC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from demo.model import make_demo
from misotts.serve.local import RunningServer, running_server
from misotts_client import Client
from tests.clients.environments import CLIENTS, NODE, python_of
from tests.support.gateway import RunningGateway, running_gateway, write_keys

SCRIPTS = Path(__file__).parent / "scripts"
EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = "test-key"
KEYS = {KEY: {"name": "test", "streams": 32}, "one-key": {"name": "one", "streams": 1}}
START_S = 300

Samples = npt.NDArray[np.int16]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and "server" in getattr(item, "fixturenames", ()):
            item.add_marker("clients")
            item.add_marker("slow")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The demo server. It draws the likeliest codes unless a request says otherwise: most clients can set no seed."""
    folder = tmp_path_factory.mktemp("models") / "demo"
    make_demo(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sampling": {"temperature": 0.5, "top_k": 1}}))
    keys = write_keys(folder.parent / "keys.json", KEYS)
    options = [f"--api-keys={keys}", f"--voices={folder / 'voices'}", "--max-streams=8"]
    with running_server(folder, *options, start_s=START_S) as running:
        yield running


@pytest.fixture(scope="session")
def tls_gateway(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningGateway, Path]]:
    """A gateway with TLS before the server, for the clients that speak nothing else, and its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    options = [f"--tls-cert={folder}/cert.pem", f"--tls-key={folder}/key.pem", f"--api-keys={server_keys(server)}"]
    with running_gateway(server.url, *options) as gateway:
        yield gateway, folder / "cert.pem"


def server_keys(server: RunningServer) -> str:
    """Return the path of the server's file of keys."""
    arguments = server.process.args
    assert isinstance(arguments, list)
    return next(str(each).partition("=")[2] for each in arguments if str(each).startswith("--api-keys="))


@pytest.fixture(scope="session")
def spoken(server: RunningServer) -> Callable[..., Samples]:
    """Return the samples of a text over gRPC, [samples] int16 at 24 kHz, by OpenAI's voice `alloy`."""

    def speak(text: str, **fields: Any) -> Samples:
        with Client(server.url, KEY) as client:
            audio = client.speak(text, speaker=0, **fields).audio
        return np.rint(audio.clip(-1, 1) * 32_767).astype(np.int16)

    return speak


@dataclass
class Ran:
    """What a script has printed as JSON, and the folder of its files."""

    found: dict[str, Any]
    folder: Path

    def pcm(self, name: str) -> Samples:
        return np.frombuffer((self.folder / f"{name}.pcm").read_bytes(), "<i2")


@pytest.fixture(scope="session")
def run(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """Return a function that runs a client's script in its environment; the script gets a folder first."""

    def run_script(environment: str, script: str, *arguments: str, **variables: str) -> Ran:
        folder = tmp_path_factory.mktemp(script.partition(".")[0])
        printed = run_file(server, environment, SCRIPTS / script, folder, *arguments, **variables)
        return Ran(json.loads(printed.splitlines()[-1]), folder)

    return run_script


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
