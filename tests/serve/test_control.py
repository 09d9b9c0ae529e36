"""The launcher's connections to its stages and the gateway."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from misotts.serve import control as control_module
from misotts.serve.control import QUIET_S, TRITON, Control, Event
from misotts.serve.messages import MAX_LINE
from misotts.serve.settings import GATEWAY, STAGES
from tests.support.waiting import wait_until


class Sender:
    """The end of the connection at a stage or the gateway."""

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
    senders = {name: Sender(path, name) for name in (*STAGES, GATEWAY)}
    for name in ("prompt", "decode", "watermark"):
        senders[name].change("loading", "weights")
        senders[name].change("ready")
    senders["generate"].change("loading", "waiting for the other stages")
    assert senders["generate"].command() == "others_ready"
    assert control.not_ready == ["generate"]
    senders["generate"].change("ready")
    wait_until(lambda: control.ready)
    senders["generate"].send(report=dict(progress=0.1, streams=3))
    wait_until(lambda: control.streams == 3)
    senders["prompt"].send(report=dict(progress=0.1, waiting=2))  # a drain waits for these too
    wait_until(lambda: control.streams == 5)
    senders[GATEWAY].send(report=dict(streams=6))  # one has left generate, and its caller has not taken its end
    wait_until(lambda: control.streams == 6)
    while not control.events.empty():
        control.events.get()
    control.command("decode", "others_ready")  # not read before it dies: the connection is reset, not closed
    senders["decode"].socket.close()
    assert control.events.get(timeout=5) == Event("decode", "dead", "its process ended")
    assert control.not_ready == ["decode"]


def test_the_death_of_a_failed_stage_is_not_reported(path: str) -> None:
    earlier = threading.enumerate()
    control = Control(path)
    stage = Sender(path, "watermark")
    stage.change("failed", "no key")
    assert control.events.get(timeout=5) == Event("watermark", "failed", "no key")
    (listener,) = [t for t in threading.enumerate() if t.name == "control-stage" and t not in earlier]
    stage.socket.close()
    listener.join(5)
    assert control.events.empty()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(control_module, "monotonic", lambda: now[0])
    return now


def watch(control: Control, clock: list[float], seconds: float) -> str | None:
    """Let time pass while the launcher looks ten times a second; return the first sender that hangs."""
    for _ in range(round(seconds * 10)):
        clock[0] += 0.1
        if hung := control.hung():
            return hung
    return None


def ready(path: str, control: Control, *names: str) -> list[Sender]:
    senders = [Sender(path, name) for name in names]
    for sender in senders:
        sender.change("ready")
        assert control.events.get(timeout=5).state == "ready"
    return senders


def report(control: Control, sender: Sender, progress: float) -> None:
    sender.send(report=dict(progress=progress))
    wait_until(lambda: control.stages[sender.name].report.get("progress") == progress)


def test_a_silent_stage_or_gateway_hangs(path: str, clock: list[float]) -> None:
    control = Control(path)
    decode, gateway = ready(path, control, "decode", GATEWAY)
    assert watch(control, clock, 19) is None
    report(control, decode, 1.0)
    assert watch(control, clock, 2) == GATEWAY
    gateway.send(report=dict(streams=7))
    wait_until(lambda: control.streams == 7)
    assert watch(control, clock, 17) is None
    assert watch(control, clock, 5) == "decode"


def test_a_silent_stage_is_not_ready_until_it_is_heard_again(path: str, clock: list[float]) -> None:
    control = Control(path)
    senders = {sender.name: sender for sender in ready(path, control, *STAGES)}
    control.heard(TRITON)
    assert control.ready
    clock[0] += QUIET_S + 0.1
    for name in ("prompt", "generate", "watermark"):
        report(control, senders[name], 1.0)
    control.heard(TRITON)
    assert not control.ready
    assert control.states == {**dict.fromkeys(STAGES, "ready"), "decode": "silent"}
    report(control, senders["decode"], 1.0)
    assert control.ready
    clock[0] += QUIET_S + 0.1
    for sender in senders.values():
        report(control, sender, 2.0)
    assert not control.ready, "tritonserver does not answer"


def test_a_tritonserver_that_no_longer_answers_hangs(path: str, clock: list[float]) -> None:
    control = Control(path)
    assert watch(control, clock, 30) is None, "it has not been asked yet"
    control.heard(TRITON)
    assert watch(control, clock, 19) is None
    assert watch(control, clock, 2) == TRITON


def test_a_stage_whose_work_stands_still_hangs(path: str, clock: list[float]) -> None:
    control = Control(path)
    (decode,) = ready(path, control, "decode")
    for second in range(60):
        report(control, decode, min(second, 30) + 0.5)
        hung = watch(control, clock, 1)
        assert hung is None or second == 50
        if hung:
            return
    raise AssertionError("it was not found")


def test_a_gap_in_the_launchers_own_time_starts_all_clocks_again(path: str, clock: list[float]) -> None:
    """Everything was stopped: `docker pause`, a debugger."""
    control = Control(path)
    (decode,) = ready(path, control, "decode")
    assert watch(control, clock, 15) is None
    clock[0] += 60
    assert watch(control, clock, 19) is None
    report(control, decode, 2.0)
    assert watch(control, clock, 19) is None
    assert watch(control, clock, 3) == "decode"


def test_a_command_reaches_its_sender_and_is_dropped_without_one(path: str) -> None:
    control = Control(path)
    (stage,) = ready(path, control, "generate")
    control.command("prompt", "others_ready")
    control.command("generate", "others_ready")
    assert stage.command() == "others_ready"


def test_a_sender_that_reads_nothing_does_not_stop_the_launcher(path: str) -> None:
    control = Control(path)
    ready(path, control, GATEWAY)
    began = time.monotonic()
    for _ in range(10_000):
        control.command(GATEWAY, "state", reason="x" * 1000)
    assert time.monotonic() - began < 5


MALFORMED = {
    "no JSON": b"\xff\x00\n",
    "no object": b"[]\n",
    "deep": b"[" * 100_000 + b"\n",
    "no stage": b'{"state": "ready", "detail": ""}\n',
    "another stage": b'{"stage": "sing", "state": "ready", "detail": ""}\n',
    "a list for a stage": b'{"stage": ["decode"], "state": "ready", "detail": ""}\n',
    "another state": b'{"stage": "decode", "state": "tired", "detail": ""}\n',
    "no detail": b'{"stage": "decode", "state": "ready"}\n',
    "a list for a report": b'{"stage": "prompt", "report": [1]}\n',
    "words for a number": b'{"stage": "prompt", "report": {"waiting": "two"}}\n',
    "NaN": b'{"stage": "prompt", "report": {"waiting": NaN}}\n',
}


def test_messages_without_sense_are_dropped_and_counted(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    control = Control(path)
    stranger = Sender(path, "prompt")
    for line in MALFORMED.values():
        stranger.socket.sendall(line)
    stranger.socket.sendall(b"x" * (MAX_LINE + 5) + b"\n")  # read in two parts
    stranger.socket.close()
    dropped = f"an unknown process: dropped {len(MALFORMED) + 2} messages that made no sense"
    errors = ""

    def reported() -> bool:
        nonlocal errors
        errors += capfd.readouterr().err
        return dropped in errors

    wait_until(reported)
    assert control.events.empty()
    assert {status.state for status in control.stages.values()} == {"starting"}
    ready(path, control, "prompt")
