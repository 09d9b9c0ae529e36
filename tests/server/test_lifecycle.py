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

import psutil
import pytest

from misotts.config import FRAME_SAMPLES
from misotts.serve.launcher import STOP_LIMIT_S
from misotts.serve.local import START_S, RunningServer, running_server, start_server
from misotts.serve.settings import SETTINGS, STAGES
from misotts_client import Client, Segment
from misotts_client.errors import MisoError, Unavailable
from tests.support.clips import tone
from tests.support.waiting import wait_until

LONG = Segment("A long story.", 0, tone(150).astype("float32"))
"""Mimi encodes it in about a second."""


def triton_of(server: RunningServer) -> psutil.Process:
    (triton,) = psutil.Process(server.process.pid).children()
    return triton


def stage_process(server: RunningServer, stage: str) -> psutil.Process:
    """Return the process of a stage, the Python stub that tritonserver started for it."""
    (stub,) = [
        child
        for child in triton_of(server).children()
        if any(f"/{stage}/1/model.py" in word for word in child.cmdline())
    ]
    return stub


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def shared_memory(server: RunningServer) -> list[Path]:
    """Return the regions of this server; other servers may run on this machine."""
    return list(Path("/dev/shm").glob(f"{option(server, 'shm-region-prefix-name=')}*"))


def option(server: RunningServer, name: str) -> str:
    """Return the value of an option of tritonserver."""
    (word,) = [word for word in triton_of(server).cmdline() if name in word]
    return word.split(name)[1]


def test_a_killed_stage_ends_the_server(demo_folder: Path) -> None:
    with running_server(demo_folder) as server:
        triton = triton_of(server)
        stage_process(server, "decode").kill()
        assert server.process.wait(20) == 1
        assert not is_alive(triton), "tritonserver was left behind"


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
        processes = [triton_of(server), *(stage_process(server, stage) for stage in STAGES)]
        settings = Path(option(server, "--model-repository=")).parent / SETTINGS
        server.process.kill()
        wait_until(lambda: not any(is_alive(process) for process in processes), limit_s=10)
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
        for _ in range(2):
            next(stream)
            next_server.process.send_signal(signal.SIGINT)
        assert next_server.process.wait(STOP_LIMIT_S) == 1, "it waited for the stream"
        with pytest.raises(MisoError):
            list(stream)


def test_sigterm_lets_streams_end_and_refuses_new_ones(demo_folder: Path) -> None:
    with running_server(demo_folder) as server, Client(server.url) as client, ThreadPoolExecutor(2) as pool:
        regions = shared_memory(server)
        with client.stream("Hello.", max_audio_ms=400) as warm:
            list(warm)
        speaking = pool.submit(client.speak, "Hello.", max_audio_ms=8_000)
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
        wait_until(lambda: server.readiness()[1]["phase"] != "draining", limit_s=30)
        server.process.send_signal(signal.SIGTERM)  # every stream has ended: this is no failure
        assert server.process.wait(30) == 0
        assert len(spoken.audio) == 100 * FRAME_SAMPLES
        assert spoken.finish == "length"
    assert regions
    assert not any(region.exists() for region in regions), "shared memory was left behind"


def test_a_stage_that_fails_to_load_is_reported_in_one_line(demo_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_folder, model)
    (model / "silentcipher" / "enc_c.ckpt").unlink()
    server = start_server(model, stderr=subprocess.PIPE)
    try:
        printed = server.process.communicate(timeout=START_S)[1]
    finally:
        server.process.kill()
    assert server.process.returncode == 1
    assert not server.is_ready
    (error,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert error.startswith("error: ")
    assert "enc_c.ckpt is missing" in error
    assert "watermark failed to load" in error
