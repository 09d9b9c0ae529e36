"""What all WebSockets have in common: keys, conversations, the limits of a socket, its end."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from misotts_gateway.sockets.conversation import Playback
from misotts_gateway.sockets.limits import MAX_MESSAGE, MAX_TURNS
from tests.support.fake_triton import FakeTriton, endless, silent
from tests.support.gateway import RunningGateway, running_gateway, write_keys
from tests.support.http import request, speak
from tests.support.tone import inputs, samples_of, speak_tone
from tests.support.waiting import wait_until
from tests.support.ws import joined, talking

CARTESIA = "/tts/websocket"
PATHS = (CARTESIA, "/v1/text-to-speech/alloy/stream-input", "/v1/text-to-speech/alloy/multi-stream-input", "/v1/speak")
FORMAT = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}


@pytest.fixture
def port(gateway: RunningGateway, triton: FakeTriton) -> int:
    triton.script = speak_tone()
    return gateway.http_port


def turn(text: str, context: str = "a", **fields: Any) -> dict[str, Any]:
    return {"transcript": text, "context_id": context, "voice": "alloy", "output_format": FORMAT, **fields}


def done(context: str = "a") -> Any:
    return lambda each: each["done"] and each["context_id"] == context


def sessions(triton: FakeTriton) -> list[str | None]:
    return [inputs(each).get("SESSION") for each in triton.requests]


def test_a_socket_is_one_conversation(port: int, triton: FakeTriton) -> None:
    for _ in range(2):
        with talking(port, CARTESIA) as talker:
            talker.send(turn("Hello there. How are you?"), turn("Yes.", "b"))
            talker.until(done("b"))
    names = sessions(triton)
    assert names[:3] == [names[0]] * 3
    assert names[3:] == [names[3]] * 3
    assert len(set(names)) == 2
    assert None not in names
    wait_until(lambda: triton.forgotten == [names[0], names[3]])
    assert not any("SESSION_HEARD_MS" in inputs(each) for each in triton.requests)


def test_a_conversation_can_have_a_name(port: int, triton: FakeTriton) -> None:
    for path, headers in ((CARTESIA + "?x-misotts-session=mine", {}), (CARTESIA, {"x-misotts-session": "mine"})):
        with talking(port, path, headers) as talker:
            talker.send(turn("Yes."))
            talker.until(done())
    speak(port, "Yes.", session="mine")
    request(port, "POST", "/v1/speak?x-misotts-session=mine", {"text": "Yes."})
    assert sessions(triton) == ["127.0.0.1/mine"] * 4
    assert not triton.forgotten
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}{CARTESIA}?x-misotts-session=a/b")
    assert refused.value.response.status_code == 400
    assert request(port, "POST", "/v1/speak?x-misotts-session=a/b", {"text": "Yes."}).status == 400


def test_a_long_text_over_http_is_one_conversation(port: int, triton: FakeTriton) -> None:
    text = " ".join(["This is a sentence of some length, and it ends."] * 20)
    speak(port, "Short.")
    speak(port, text, response_format="pcm")
    first, *rest = sessions(triton)
    assert first is None
    assert len(rest) > 2
    assert len(set(rest)) == 1
    wait_until(lambda: triton.forgotten == rest[:1])


def test_turns_that_overlap_are_queued(port: int, triton: FakeTriton) -> None:
    running, most, lock = [0], [0], threading.Lock()
    tone = speak_tone(pace_s=0.005)

    def script(request: Any, context: Any) -> Iterator[Any]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        yield from tone(request, context)
        with lock:
            running[0] -= 1

    triton.script = script
    with talking(port, CARTESIA) as talker:
        for id in "abcdef":
            talker.send(turn(f"This is context {id}.", id))
        talker.until(done("f"))
        order = [each["context_id"] for each in talker.got if each["done"]]
    assert order == list("abcdef")
    assert most == [1]


def test_what_was_heard_is_told_to_the_next_turn(port: int, triton: FakeTriton) -> None:
    triton.script = endless
    with talking(port, CARTESIA) as talker:
        talker.send(turn("A long sentence."))
        talker.next()
        began = time.monotonic()
        talker.until(lambda each: time.monotonic() - began > 0.3)
        talker.send({"context_id": "a", "cancel": True})
        talker.until(done())
        elapsed_ms = (time.monotonic() - began) * 1000
        triton.script = silent
        talker.send(turn("It was refused.", "b"))
        wait_until(lambda: len(triton.requests) == 2)
        talker.send({"context_id": "b", "cancel": True})  # nothing was said, so what was heard before still counts
        triton.script = speak_tone()
        talker.send(turn("Then this.", "c"), turn("And this.", "d"))
        talker.until(done("d"))
    heard = [inputs(each).get("SESSION_HEARD_MS") for each in triton.requests]
    assert heard[0] is None
    assert 250 < heard[1] < elapsed_ms + 100
    assert heard[2:] == [heard[1], None]


def test_playback() -> None:
    now = [0.0]
    playback = Playback(lambda: now[0])
    assert playback.interrupt() is None
    playback.begin()
    playback.sent(2.0)
    now[0] = 0.5
    playback.begin()  # the second utterance waits for the end of the first one
    playback.sent(1.0)
    now[0] = 1.0
    assert playback.interrupt() == 0
    playback.begin()  # after an interruption the next one is played at once
    playback.sent(2.0)
    now[0] = 1.4
    playback.sent(0.5)
    now[0] = 2.5
    assert playback.interrupt() == 1500
    playback.begin()
    playback.sent(1.0)
    now[0] = 4.0
    assert playback.interrupt() is None  # all of it was heard


@pytest.mark.parametrize("path", PATHS)
def test_keys_of_sockets(triton: FakeTriton, path: str, keyed: RunningGateway) -> None:
    for headers in (
        {"authorization": "Token k"},
        {"authorization": "bearer  k "},
        {"xi-api-key": "k"},
        {"x-api-key": "k"},
    ):
        with talking(keyed.http_port, path, headers) as talker:
            assert talker.connection.subprotocol is None
    with talking(keyed.http_port, path + "?api_key=k"), talking(keyed.http_port, path + "?access_token=%6b"):
        pass
    with talking(keyed.http_port, path, subprotocols=["token", "k"]) as talker:
        assert talker.connection.subprotocol == "token"
    wrong = ({}, {"authorization": "Token x"}, {"authorization": "Token k", "xi-api-key": "x"}, {"x-api-key": "k\xe9"})
    for headers in wrong:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{keyed.http_port}{path}", additional_headers=headers)
        assert refused.value.response.status_code == 401
        assert "API key" in json.dumps(json.loads(refused.value.response.body))
        assert refused.value.response.headers["x-request-id"]


@pytest.fixture(scope="module")
def keyed(shared_triton: FakeTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    keys = write_keys(tmp_path_factory.mktemp("keys") / "keys", {"k": {"name": "ann", "streams": 1}})
    with running_gateway(shared_triton.url, f"--api-keys={keys}") as running:
        yield running


def test_a_socket_holds_its_stream_while_it_speaks(keyed: RunningGateway, triton: FakeTriton) -> None:
    """The case key-slots: an idle socket holds none, and a cancelled turn gives its own back at once."""
    key = {"authorization": "Bearer k"}
    triton.script = endless
    with talking(keyed.http_port, CARTESIA, key) as talker:
        talker.send(turn("Hello."))
        talker.next()
        assert speak(keyed.http_port, headers={"content-type": "application/json", **key}).status == 429
        with talking(keyed.http_port, CARTESIA, key) as other:
            other.send(turn("Hello."))
            assert other.next()["status_code"] == 429
        talker.send({"context_id": "a", "cancel": True})
        talker.until(done())
        triton.script = speak_tone()
        assert speak(keyed.http_port, headers={"content-type": "application/json", **key}).status == 200
    assert 'misotts_gateway_requests_total{outcome="CANCELLED",tenant="ann"} 1.0' in keyed.metrics()


@pytest.mark.parametrize("path", PATHS)
def test_upgrades_that_are_refused_have_a_body(port: int, path: str) -> None:
    addresses = [
        path.replace("alloy", "unknown") if "alloy" in path else f"{path}?model=unknown&encoding=x",
        "/nothing",
    ]
    for address, status in zip(addresses, (404 if "alloy" in path else 400, 404), strict=True):
        if address.startswith(CARTESIA):
            continue
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{port}{address}")
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)
    # A page of another site may not use a server without keys: a browser asks nothing before it opens a WebSocket.
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}{path}", origin="https://other.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    assert refused.value.response.body
    with connect(f"ws://127.0.0.1:{port}{path}", origin=f"http://127.0.0.1:{port}") as connection:  # type: ignore[arg-type]
        assert connection.protocol.extensions == []  # no permessage-deflate, which the client has offered


def test_limits_of_a_socket(port: int, triton: FakeTriton) -> None:
    with talking(port, CARTESIA) as talker:
        talker.send("x" * (MAX_MESSAGE + 1))
        assert talker.closed()[0] == 1009
    with talking(port, CARTESIA) as talker:
        talker.send(turn("a" * 100_001))
        assert "100000" in talker.next()["message"]
        for index in range(MAX_TURNS + 5):  # contexts with nothing left to say make room
            talker.send(turn("Yes.", f"c{index}", **{"continue": True, "flush": True}))
            talker.until(lambda each: each["type"] != "chunk")
            assert talker.got[-1]["type"] == "flush_done"
        triton.script = endless
        for index in range(MAX_TURNS + 1):
            talker.send(turn("Yes.", f"d{index}", **{"continue": True, "flush": True}))
        assert "contexts" in talker.until(lambda each: each["type"] == "error")[-1]["message"]
        began = time.monotonic()
        assert talker.connection.ping().wait(1)
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("way", ["half", "cut"])
def test_a_caller_that_vanishes_is_gone_at_once(port: int, triton: FakeTriton, way: str) -> None:
    triton.script = endless
    with talking(port, CARTESIA) as talker:
        talker.send(turn("Hello."))
        talker.next()
        if way == "half":
            talker.connection.socket.shutdown(socket.SHUT_WR)
        else:
            talker.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            talker.connection.socket.close()
        assert triton.cancelled.wait(0.3)


def test_shutdown_ends_what_is_said(shared_triton: FakeTriton) -> None:
    """uvicorn would close all WebSockets with 1012 at once."""
    shared_triton.reset()
    shared_triton.script = speak_tone(pace_s=0.02)
    sentence = "This sentence is spoken to its very end."
    with (
        running_gateway(shared_triton.url) as gateway,
        talking(gateway.http_port, CARTESIA) as talker,
        talking(gateway.http_port, CARTESIA) as idle,
        talking(gateway.http_port, PATHS[1] + "?output_format=pcm_24000") as other,
    ):
        talker.send(turn(sentence))
        other.send({"text": sentence}, {"text": ""})
        talker.next()
        other.next()
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        idle.send(turn("Hello."))
        assert idle.closed()[0] == 1012
        assert idle.got[-1]["status_code"] == 503
        assert talker.closed()[0] == 1012
        assert done()(talker.got[-1])
        assert other.closed()[0] == 1000
        whole = 2 * samples_of(sentence)
        assert len(joined(talker.got, "data")) == len(joined(other.got, "audio")) == whole
        assert gateway.process.wait(5) == 0


def test_the_access_log_has_each_utterance(shared_triton: FakeTriton, tmp_path: Path) -> None:
    shared_triton.reset()
    shared_triton.script = speak_tone()
    with running_gateway(shared_triton.url, f"--access-log={tmp_path / 'log'}") as gateway:
        with talking(gateway.http_port, "/v1/speak", {"x-request-id": "mine"}) as talker:
            talker.send({"type": "Speak", "text": "Hello. Yes."}, {"type": "Flush"})
            talker.until(lambda each: isinstance(each, dict) and each["type"] == "Flushed")
            response = talker.connection.response
            assert response is not None
            assert response.headers["x-request-id"] == "mine"
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert [(each["request_id"], each["outcome"], each["characters"]) for each in lines] == [
            ("mine", "eos", 7),
            ("mine", "eos", 4),
        ]
        assert 'http_requests_total{route="/v1/speak",status="101"} 1.0' in gateway.metrics()
