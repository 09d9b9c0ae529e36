"""One demo server for all clients, and what it says over gRPC."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.model import make_demo
from misotts.serve.local import RunningServer, running_server
from misotts_client import Client
from tests.support.clients import KEY, SCRIPTS, Ran, assert_recorded, run_file
from tests.support.gateway import RunningGateway, running_gateway, write_keys
from tests.support.recording import Relay, Samples, relay, rounded

KEYS = {KEY: {"name": "test", "streams": 32}, "one-key": {"name": "one", "streams": 1}}
START_S = 300


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
def recording(server: RunningServer) -> Iterator[Relay]:
    """A relay before the server's gRPC port, which keeps what each call has given."""
    with relay(server.url) as made:
        yield made


@pytest.fixture(scope="session")
def gateway(server: RunningServer, recording: Relay) -> Iterator[RunningGateway]:
    """The gateway at which the clients point. Its upstream is the relay, with keys and voices as the server's."""
    with running_gateway(recording.url, option(server, "--api-keys"), option(server, "--voices")) as running:
        yield running


@pytest.fixture(scope="session")
def tls_gateway(
    server: RunningServer, recording: Relay, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningGateway, Path]]:
    """A gateway with TLS before the relay, for the clients that speak nothing else, and its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    options = [f"--tls-cert={folder}/cert.pem", f"--tls-key={folder}/key.pem", option(server, "--api-keys")]
    with running_gateway(recording.url, *options) as gateway:
        yield gateway, folder / "cert.pem"


def option(server: RunningServer, name: str) -> str:
    """Return an option with which the server runs, `NAME=VALUE`."""
    arguments = server.process.args
    assert isinstance(arguments, list)
    return next(str(each) for each in arguments if str(each).startswith(f"{name}="))


@pytest.fixture(scope="session")
def spoken(server: RunningServer) -> Callable[..., Samples]:
    """Return the samples of a text over gRPC, [samples] int16 at 24 kHz, by OpenAI's voice `alloy`."""

    @functools.cache
    def speak(text: str, **fields: Any) -> Samples:
        with Client(server.url, KEY) as client:
            return rounded(client.speak(text, speaker=0, **fields).audio)

    return speak


@pytest.fixture(scope="session")
def assert_heard(recording: Relay, spoken: Callable[..., Samples]) -> Callable[..., None]:
    """Return `assert_heard(heard, text, later=False, **fields)`: see `assert_recorded`.

    `later`: it is not the first text of its conversation.
    """

    def check(heard: Samples, text: str, later: bool = False, **fields: Any) -> None:
        assert_recorded(heard, recording, text, None if later else spoken(text, **fields))

    return check


@pytest.fixture(scope="session")
def run(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """Return a function that runs a client's script in its environment; the script gets a folder first."""

    def run_script(environment: str, script: str, *arguments: str, **variables: str) -> Ran:
        folder = tmp_path_factory.mktemp(script.partition(".")[0])
        printed = run_file(gateway, environment, SCRIPTS / script, folder, *arguments, **variables)
        return Ran(json.loads(printed.splitlines()[-1]), folder)

    return run_script
