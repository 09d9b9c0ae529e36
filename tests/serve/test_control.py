"""The launcher's connections to its stages, and the readiness that it reports."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from misotts.serve import control as control_module
from misotts.serve.control import Control, StageEvent
from misotts.serve.local import free_ports
from misotts.serve.readiness import Readiness
from misotts.serve.settings import STAGES
from tests.support.waiting import wait_until


class FakeStage:
    """A stage's end of the connection."""

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)

    def send(self, **message: object) -> None:
        self.socket.sendall(json.dumps({"stage": self.name, **message}).encode() + b"\n")

    def change(self, state: str, detail: str = "") -> None:
        self.send(state=state, detail=detail)

    def command(self) -> str:
        self.socket.settimeout(5)
        return json.loads(self.socket.makefile().readline())["command"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control")


def test_it_is_ready_when_all_stages_are_and_reports_one_that_dies(path: str) -> None:
    control = Control(path)
    stages = {name: FakeStage(path, name) for name in STAGES}
    for name in ("prompt", "decode", "watermark"):
        stages[name].change("loading", "weights")
        stages[name].change("ready")
    assert not control.ready
    stages["generate"].change("loading", "waiting for the other stages")
    assert stages["generate"].command() == "others_ready"
    stages["generate"].change("ready")
    wait_until(lambda: control.ready)
    stages["generate"].send(report=dict(idle_s=0.1, streams=3))
    wait_until(lambda: control.streams == 3)
    stages["prompt"].send(report=dict(idle_s=0.1, waiting=2))  # a drain waits for these too
    wait_until(lambda: control.streams == 5)
    while not control.events.empty():
        control.events.get()
    control.command("drain", "decode")  # not read before it dies: the connection is reset, not closed
    stages["decode"].socket.close()
    assert control.events.get(timeout=5) == StageEvent("decode", "dead", "its process ended")
    assert not control.ready


def test_the_death_of_a_failed_stage_is_not_reported(path: str) -> None:
    earlier = threading.enumerate()
    control = Control(path)
    stage = FakeStage(path, "watermark")
    stage.change("failed", "no key")
    assert control.events.get(timeout=5) == StageEvent("watermark", "failed", "no key")
    (listener,) = [t for t in threading.enumerate() if t.name == "control-stage" and t not in earlier]
    stage.socket.close()
    listener.join(5)
    assert control.events.empty()


@pytest.mark.parametrize("case", ["no heartbeat", "worker hangs"])
def test_a_stage_that_hangs_is_found(path: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "SILENT_S", 0.3)
    control = Control(path)
    stage = FakeStage(path, "decode")
    stage.change("ready")
    stage.send(report=dict(idle_s=0.0))
    wait_until(lambda: control.stages["decode"].report)
    assert control.hung_stage() is None
    if case == "no heartbeat":
        time.sleep(0.4)
    else:
        stage.send(report=dict(idle_s=0.5))
        wait_until(lambda: control.stages["decode"].report["idle_s"])
    assert control.hung_stage() == "decode"


def test_a_command_reaches_its_stage_and_is_dropped_without_one(path: str) -> None:
    control = Control(path)
    stage = FakeStage(path, "generate")
    stage.change("ready")
    wait_until(lambda: control.stages["generate"].state == "ready")
    control.command("drain", "prompt")
    control.command("drain", "generate")
    assert stage.command() == "drain"


def ask(port: int, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error) if error.code == 503 else {}


def test_the_readiness_port_answers_by_the_state() -> None:
    (port,) = free_ports(1)
    state = [True]
    readiness = Readiness("127.0.0.1", port, lambda: (state[0], {"streams": 2}))
    assert ask(port, "/ready") == (200, {"ready": True, "streams": 2})
    state[0] = False
    assert ask(port, "/ready") == (503, {"ready": False, "streams": 2})
    assert ask(port, "/live")[0] == 200
    assert ask(port, "/")[0] == 404
    readiness.close()
