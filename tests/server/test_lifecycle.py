"""Start, death and drain of `misotts serve`, each with a server of its own."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from misotts.config import FRAME_SAMPLES
from misotts.serve.control import SILENT_S, TRITON
from misotts.serve.launcher import STOP_LIMIT_S
from misotts.serve.local import START_S, RunningServer, running_server, start_server
from misotts.serve.settings import GATEWAY, SETTINGS
from misotts_client import Client, Segment
from misotts_client.errors import MisoError, Unavailable
from tests.support.clips import tone
from tests.support.processes import (
    gateway_of,
    is_alive,
    processes,
    run_folder,
    shared_memory,
    stage_process,
    triton_of,
)
from tests.support.waiting import wait_until

LONG = Segment("A long story.", 0, tone(150).astype("float32"))
"""Mimi encodes it in about a second."""


def seconds_to_error(client: Client, break_it: Callable[[], None]) -> float:
    """Break the server while a stream runs; return the seconds until its caller gets an error."""
    with client.stream("A long story.", max_audio_ms=160_000) as stream:
        next(stream)
        break_it()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            list(stream)
        return time.monotonic() - began


@pytest.mark.parametrize("victim", ["generate", "watermark"])
def test_callers_hear_of_a_killed_stage_and_the_server_ends(demo_folder: Path, victim: str) -> None:
    with running_server(demo_folder) as server, Client(server.url) as client:
        everything = processes(server)
        assert seconds_to_error(client, stage_process(server, victim).kill) < 3
        assert server.process.wait(5) == 1
        assert not [each for each in everything if is_alive(each)], "processes were left behind"


@pytest.mark.parametrize(
    "victim", ["decode", *(pytest.param(name, marks=pytest.mark.slow) for name in (GATEWAY, TRITON))]
)
def test_callers_hear_of_a_process_that_stands_still(demo_folder: Path, victim: str) -> None:
    with running_server(demo_folder) as server, Client(server.url) as client:
        others = {GATEWAY: gateway_of, TRITON: triton_of}
        process = others[victim](server) if victim in others else stage_process(server, victim)
        assert seconds_to_error(client, process.suspend) < 25
        assert server.process.wait(25) == 1


@pytest.mark.slow
def test_a_server_that_was_stopped_as_a_whole_goes_on(demo_folder: Path) -> None:
    """`docker pause`, a debugger, a laptop that sleeps: a stage was silent because nothing ran."""
    with running_server(demo_folder) as server, Client(server.url) as client:
        everything = processes(server)
        for process in everything:
            process.suspend()
        time.sleep(SILENT_S + 5)
        for process in everything:
            process.resume()
        time.sleep(3)
        assert server.is_ready
        assert len(client.speak("Hello.", max_audio_ms=400).audio) == 5 * FRAME_SAMPLES


@pytest.mark.parametrize("loading", [GATEWAY, "generate"])
def test_a_start_that_is_told_to_stop_stops_at_once(demo_folder: Path, loading: str) -> None:
    server = start_server(demo_folder, stderr=subprocess.PIPE)
    try:
        assert server.process.stderr
        assert next(line for line in server.process.stderr if line.startswith(f"misotts: {loading}"))
        everything = processes(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(3) == 0
        assert not [each for each in everything if is_alive(each)]
    finally:
        server.process.kill()


def test_a_killed_tritonserver_is_reported_in_one_line(demo_folder: Path, pinned_text: Callable[..., None]) -> None:
    server = start_server(demo_folder, stderr=subprocess.PIPE)
    try:
        server.wait_until_ready()
        triton_of(server).kill()
        printed = server.process.communicate(timeout=20)[1]
    finally:
        server.process.kill()
    (error,) = [line for line in printed.splitlines() if line.startswith("error:")]
    pinned_text(re.sub(r"\(log: .*\)", "(log: FILE)", error))


@dataclass(frozen=True)
class Killed:
    """The remains of a killed launcher once its processes have ended."""

    settings: Path
    settings_left: bool
    regions: list[Path]


@pytest.fixture(scope="module")
def killed(demo_folder: Path) -> Killed:
    with running_server(demo_folder) as server:
        regions = shared_memory(server)
        children = processes(server)[1:]
        settings = run_folder(server) / SETTINGS
        server.process.kill()
        wait_until(lambda: not any(is_alive(process) for process in children), limit_s=10)
        return Killed(settings, settings.exists(), regions)


@pytest.fixture(scope="module")
def next_server(killed: Killed, demo_folder: Path) -> Iterator[RunningServer]:
    """The server that starts after the killed one."""
    with running_server(demo_folder) as server:
        yield server


def test_the_next_start_removes_what_a_killed_launcher_left(killed: Killed, next_server: RunningServer) -> None:
    assert killed.settings_left
    assert not killed.settings.exists()
    assert killed.regions
    assert not any(region.exists() for region in killed.regions), "shared memory was left behind"


def test_a_second_signal_stops_the_server_immediately(next_server: RunningServer) -> None:
    """No test uses the server after this one."""
    with Client(next_server.url) as client:
        stream = client.stream("Hello.", max_audio_ms=120_000)
        next(stream)
        next_server.process.send_signal(signal.SIGINT)
        # Two signals in a row would be one if the process did not run in between.
        wait_until(lambda: next_server.readiness()[1]["phase"] == "draining")
        next_server.process.send_signal(signal.SIGINT)
        assert next_server.process.wait(STOP_LIMIT_S) == 1, "it waited for the stream"
        with pytest.raises(MisoError):
            list(stream)


def test_sigterm_lets_streams_end_and_refuses_new_ones(demo_folder: Path) -> None:
    with running_server(demo_folder) as server, Client(server.url) as client, ThreadPoolExecutor(2) as pool:
        regions, gateway = shared_memory(server), gateway_of(server)
        with client.stream("Hello.", max_audio_ms=400) as warm:
            list(warm)
        speaking = pool.submit(client.speak, "Hello.", max_audio_ms=16_000)
        encoded = pool.submit(client.speak, "Hello.", context=[LONG], max_audio_ms=400)
        time.sleep(0.3)
        wait_until(lambda: server.readiness()[1]["streams"] == 2)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.readiness()[1]["phase"] == "draining")
        status, body = server.readiness()
        assert (status, body["ready"]) == (503, False)
        with pytest.raises(Unavailable, match="shutting down"):
            client.speak("Too late.")
        spoken = speaking.result()
        assert len(encoded.result().audio) == 5 * FRAME_SAMPLES, "it arrived before the signal"
        wait_until(lambda: not is_alive(gateway), limit_s=30)
        server.process.send_signal(signal.SIGTERM)  # every stream has ended: this is no failure
        assert server.process.wait(30) == 0
        assert len(spoken.audio) == 200 * FRAME_SAMPLES
        assert spoken.finish == "length"
    assert regions
    assert not any(region.exists() for region in regions), "shared memory was left behind"


def test_a_stage_that_fails_to_load_is_reported_in_one_line(demo_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_folder, model)
    (model / "silentcipher" / "enc_c.ckpt").write_bytes(b"no weights")  # the start only looks whether it can be read
    server = start_server(model, stderr=subprocess.PIPE)
    try:
        printed = server.process.communicate(timeout=START_S)[1]
    finally:
        server.process.kill()
    assert server.process.returncode == 1
    assert not server.is_ready
    (error,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert error.startswith("error: ")
    assert "enc_c.ckpt" in error
    assert "watermark failed to load" in error
