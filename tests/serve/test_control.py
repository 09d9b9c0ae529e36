"""The launcher's ear for its stages, and the readiness that it tells."""

from __future__ import annotations

import json
import socket
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
    """The other end of a line."""

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)

    def say(self, state: str, what: str = "", **report: float) -> None:
        message = {"stage": self.name, "pid": 1, "state": state, "what": what, **report}
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> str:
        self.socket.settimeout(5)
        return json.loads(self.socket.makefile().readline())["command"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control")


def test_ready_when_all_four_are_and_dead_when_one_hangs_up(path: str) -> None:
    control = Control(path)
    stages = {name: FakeStage(path, name) for name in STAGES}
    for name in ("prompt", "decode", "watermark"):
        stages[name].say("loading", "weights")
        stages[name].say("ready")
    assert not control.ready
    stages["generate"].say("loading", "waiting for the other stages")
    assert stages["generate"].hear() == "others_ready"
    stages["generate"].say("ready")
    wait_until(lambda: control.ready)
    stages["generate"].say("beat", idle_s=0.1, streams=3)
    wait_until(lambda: control.streams == 3)
    stages["prompt"].say("beat", idle_s=0.1, waiting=2)  # a drain waits for these too
    wait_until(lambda: control.streams == 5)
    while not control.events.empty():
        control.events.get()
    control.command("drain", "decode")  # unread when it dies: the connection is reset, not closed
    stages["decode"].socket.close()
    assert control.events.get(timeout=5) == StageEvent("decode", "dead", "its process ended")
    assert not control.ready


def test_a_failure_is_told_once(path: str) -> None:
    control = Control(path)
    stage = FakeStage(path, "watermark")
    stage.say("failed", "no key")
    assert control.events.get(timeout=5) == StageEvent("watermark", "failed", "no key")
    stage.socket.close()
    time.sleep(0.05)
    assert control.events.empty()


@pytest.mark.parametrize("how", ["says nothing", "makes no pass"])
def test_a_stage_that_hangs_is_found(path: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "SILENT_S", 0.3)
    control = Control(path)
    stage = FakeStage(path, "decode")
    stage.say("ready")
    stage.say("beat", idle_s=0.0)
    wait_until(lambda: control.stages["decode"].report)
    assert control.silent() is None
    if how == "says nothing":
        time.sleep(0.4)
    else:
        stage.say("beat", idle_s=0.5)
        wait_until(lambda: control.stages["decode"].report["idle_s"])
    assert control.silent() == "decode"


def test_commands_reach_the_stage_and_a_dead_one_costs_nothing(path: str) -> None:
    control = Control(path)
    stage = FakeStage(path, "generate")
    stage.say("ready")
    wait_until(lambda: control.stages["generate"].state == "ready")
    control.command("drain", "generate", "prompt")
    assert stage.hear() == "drain"


def ask(port: int, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error) if error.code == 503 else {}


def test_readiness_tells_the_truth() -> None:
    (port,) = free_ports(1)
    state = [True]
    readiness = Readiness("127.0.0.1", port, lambda: (state[0], {"streams": 2}))
    assert ask(port, "/ready") == (200, {"ready": True, "streams": 2})
    state[0] = False
    assert ask(port, "/ready") == (503, {"ready": False, "streams": 2})
    assert ask(port, "/live")[0] == 200
    assert ask(port, "/")[0] == 404
    readiness.close()
