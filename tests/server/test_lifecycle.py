"""Start, death and drain of `misotts serve`, each with a server of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from misotts.serve.launcher import STOP_LIMIT_S
from misotts.serve.local import START_S, RunningServer, is_ready, running_server, start_server, wait_until_ready
from misotts.serve.settings import STAGES
from misotts_client import Client, Segment
from misotts_client.errors import MisoError, Unavailable
from tests.support.clips import tone

LONG = Segment("A long story.", 0, tone(150).astype("float32"))
"""It takes the codec about a second."""


def stage_process(server: RunningServer, stage: str) -> int:
    """The process of a stage: the Python stub that tritonserver started for it."""
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = stat.read_text().split("\0")
        except OSError:
            continue
        if "triton_python_backend_stub" in words[0] and any(f"/{stage}/1/model.py" in word for word in words):
            pid = int(stat.parent.name)
            if os.getpgid(pid) != os.getpgid(0) and launcher_of(pid) == server.process.pid:
                return pid
    raise AssertionError(f"no process of {stage}")


def launcher_of(stub: int) -> int:
    def parent(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])

    return parent(parent(stub))


def children(server: RunningServer) -> set[int]:
    """Processes of the server's run, tritonserver and its stubs."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == server.process.pid:
            found.add(int(stat.parent.name))
    return found


def shared_memory(server: RunningServer) -> list[Path]:
    """The server's own regions; other servers may run on this machine."""
    (triton,) = children(server)
    words = Path(f"/proc/{triton}/cmdline").read_text()
    prefix = words.split("shm-region-prefix-name=")[1].split("\0")[0]
    return list(Path("/dev/shm").glob(f"{prefix}*"))


def readiness(server: RunningServer) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ready_port}/ready", timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_killed_stage_ends_the_server(demo_folder: Path) -> None:
    with running_server(demo_folder) as server:
        started = children(server)
        os.kill(stage_process(server, "decode"), signal.SIGKILL)
        assert server.process.wait(20) == 1
        assert started
        assert not any(Path(f"/proc/{pid}").exists() for pid in started), "tritonserver was left behind"


def test_a_killed_tritonserver_is_one_line_that_says_so(demo_folder: Path) -> None:
    server = start_server(demo_folder, stderr=subprocess.PIPE)
    try:
        wait_until_ready(server)
        (triton,) = children(server)
        os.kill(triton, signal.SIGKILL)
        said = server.process.communicate(timeout=20)[1]
    finally:
        server.process.kill()
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert error.startswith("error: tritonserver was killed by signal 9, perhaps")
    assert "Triton says" not in error


def test_a_killed_launcher_takes_all_with_it_and_the_next_cleans_up(demo_folder: Path) -> None:
    with running_server(demo_folder) as server:
        regions = shared_memory(server)
        processes = [*children(server), *(stage_process(server, stage) for stage in STAGES)]
        run = Path(f"/proc/{processes[0]}/cmdline").read_text().split("--model-repository=")[1].split("\0")[0]
        settings = Path(run).parent / "settings.json"
        server.process.kill()
        limit = time.monotonic() + 10
        while left := [pid for pid in processes if Path(f"/proc/{pid}/exe").exists()]:
            assert time.monotonic() < limit, f"left behind: {left}"
            time.sleep(0.1)
    assert settings.exists()
    with running_server(demo_folder):
        assert not settings.exists()
        assert regions
        assert not any(region.exists() for region in regions), "shared memory was left behind"


def test_sigterm_lets_streams_end_and_refuses_new_ones(demo_folder: Path) -> None:
    with running_server(demo_folder) as server, Client(server.url) as client, ThreadPoolExecutor(2) as pool:
        regions = shared_memory(server)
        with client.stream("Hello.", max_audio_ms=400) as warm:
            list(warm)
        speaking = pool.submit(client.speak, "Hello.", max_audio_ms=8_000)
        encoded = pool.submit(client.speak, "Hello.", context=[LONG], max_audio_ms=400)
        time.sleep(0.3)
        while readiness(server)[1]["streams"] != 2:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        status, told = readiness(server)
        assert (status, told["ready"], told["phase"]) == (503, False, "draining")
        with pytest.raises(Unavailable, match="shutting down"):
            client.speak("Too late.")
        spoken = speaking.result()
        assert len(encoded.result().audio) == 5 * 1920, "it had come before the signal"
        while readiness(server)[1]["phase"] == "draining":
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)  # nothing is left to hurry: it is no failure
        assert server.process.wait(30) == 0
        assert len(spoken.audio) == 100 * 1920
        assert spoken.finish == "length"
    assert regions
    assert not any(region.exists() for region in regions), "shared memory was left behind"


def test_a_second_signal_stops_at_once(demo_folder: Path) -> None:
    with running_server(demo_folder) as server, Client(server.url) as client:
        stream = client.stream("Hello.", max_audio_ms=120_000)
        for _ in range(2):
            next(stream)
            server.process.send_signal(signal.SIGINT)
        assert server.process.wait(STOP_LIMIT_S) == 1, "it waited for the stream"
        with pytest.raises(MisoError):
            list(stream)


def serve_fails(model: Path, *options: str) -> str:
    """Run `misotts serve`, which must end by itself; return what it says."""
    server = start_server(model, options, stderr=subprocess.PIPE)
    assert server.process.stderr
    try:
        said = server.process.communicate(timeout=START_S)[1]
    finally:
        server.process.kill()
    assert server.process.returncode == 1
    assert not is_ready(server)
    return said


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    said = serve_fails(tmp_path / "nowhere")
    assert said.splitlines() == [f"error: no model at {tmp_path / 'nowhere'}: config.json is missing"]


def test_no_watermark_key_is_one_line(demo_folder: Path) -> None:
    (said,) = serve_fails(demo_folder, "--no-allow-reference-key").splitlines()
    assert said.startswith("error: no watermark key: name a file with --watermark-key-file")


def test_a_run_folder_that_cannot_be_is_one_line(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    (said,) = serve_fails(demo_folder).splitlines()[-1:]
    assert said == f"error: no run folder in {folder} (set TMPDIR): AF_UNIX path too long"


def test_a_busy_port_is_one_line(demo_folder: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        said = serve_fails(demo_folder, f"--grpc-port={port}")
    assert said.splitlines() == [f"error: cannot listen on the grpc port {port} of 127.0.0.1: Address already in use"]


def test_a_stage_that_fails_to_load_is_one_line(demo_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_folder, model)
    (model / "silentcipher" / "enc_c.ckpt").unlink()
    (error,) = [line for line in serve_fails(model).splitlines() if line.startswith("error:")]
    assert error.startswith("error: ")
    assert "enc_c.ckpt is missing" in error
    assert "watermark failed to load" in error
