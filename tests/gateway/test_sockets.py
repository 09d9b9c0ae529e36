"""What all WebSockets have in common: keys, conversations, the limits of a socket, its end."""

import asyncio
import json
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from misotts_gateway.sockets.limits import MAX_MESSAGE, MAX_TURNS
from tests.support.fake_triton import FakeTriton, endless, refusal
from tests.support.gateway import RunningGateway, running_gateway, write_keys
from tests.support.http import request, speak
from tests.support.tone import samples_of, speak_tone
from tests.support.waiting import wait_until
from tests.support.ws import CARTESIA, done, joined, talking, turn

PATHS = (CARTESIA, "/v1/text-to-speech/alloy/stream-input", "/v1/text-to-speech/alloy/multi-stream-input", "/v1/speak")


@pytest.fixture
def port(gateway: RunningGateway, triton: FakeTriton) -> int:
    triton.script = speak_tone()
    return gateway.http_port


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
    wrong: Any = (
        {},
        {"authorization": "Token x"},
        {"authorization": "Token k", "xi-api-key": "x"},
        {"x-api-key": "k\xe9"},
    )
    for headers in wrong:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{keyed.http_port}{path}", additional_headers=headers)
        assert refused.value.response.status_code == 401
        assert "API key" in json.dumps(json.loads(refused.value.response.body))
        assert refused.value.response.headers["x-request-id"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def keyed(shared_triton: FakeTriton, log: Path) -> Iterator[RunningGateway]:
    """A gateway with a key of one stream, and an access log."""
    keys = write_keys(log.with_name("keys"), {"k": {"name": "ann", "streams": 1}})
    with running_gateway(shared_triton.url, f"--api-keys={keys}", f"--access-log={log}") as running:
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
def test_upgrades_that_are_refused_have_a_body(port: int, gateway: RunningGateway, path: str) -> None:
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
    before = series(gateway)
    for number in range(20):
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{port}/v1/text-to-speech/random-{number}/stream-input")
    assert series(gateway) <= before + 1  # labels are the templates of routes
    # A page of another site may not use a server without keys: a browser asks nothing before it opens a WebSocket.
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}{path}", origin=Origin("https://other.example"))
    assert refused.value.response.status_code == 403
    assert refused.value.response.body
    with connect(f"ws://127.0.0.1:{port}{path}", origin=Origin(f"http://127.0.0.1:{port}")) as connection:
        assert connection.protocol.extensions == []  # no permessage-deflate, which the client has offered


def series(gateway: RunningGateway) -> int:
    return len([line for line in gateway.metrics().splitlines() if "http_requests" in line])


def test_limits_of_a_socket(port: int, triton: FakeTriton) -> None:
    with talking(port, CARTESIA) as talker:
        talker.send("x" * (MAX_MESSAGE + 1))
        assert talker.closed()[0] == 1009
    with talking(port, CARTESIA) as talker:
        talker.send(turn("a" * 100_001))
        assert "100000" in talker.next()["message"]
        for index in range(MAX_TURNS + 5):  # contexts with nothing left to say are forgotten
            talker.send(turn("Yes.", f"c{index}", more=True, flush=True))
            talker.until(lambda each: each["type"] != "chunk")
            assert talker.got[-1]["type"] == "flush_done"
        triton.script = endless
        for index in range(MAX_TURNS + 1):
            talker.send(turn("Yes.", f"d{index}", more=True, flush=True))
        assert "contexts" in talker.until(lambda each: each["type"] == "error")[-1]["message"]
        began = time.monotonic()
        assert talker.connection.ping().wait(1)
        assert time.monotonic() - began < 1


def test_frames_that_no_protocol_sees_are_bounded(port: int, triton: FakeTriton) -> None:
    triton.script = endless
    for frame, code in ((b"\x89\x80\0\0\0\0", 1008), (b"\x8a\x80\0\0\0\0", 1008), (b"\x00\x80\0\0\0\0", 1009)):
        with talking(port, CARTESIA) as talker:
            talker.send(turn("Hello."))
            talker.next()
            opening = b"\x01\x80\0\0\0\0" if code == 1009 else b""
            talker.connection.socket.sendall(opening + frame * 2_000)  # pings, pongs, fragments
            assert talker.closed()[0] == code
            assert triton.cancelled.wait(1)
        triton.cancelled.clear()


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


def test_the_access_log_has_each_utterance(keyed: RunningGateway, triton: FakeTriton, log: Path) -> None:
    triton.script = speak_tone()
    with talking(keyed.http_port, "/v1/speak", {"x-request-id": "mine", "x-api-key": "k"}) as talker:
        talker.send({"type": "Speak", "text": "Hello. Yes."}, {"type": "Flush"})
        talker.until(lambda each: isinstance(each, dict) and each["type"] == "Flushed")
        response = talker.connection.response
        assert response is not None
        assert response.headers["x-request-id"] == "mine"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    mine = [each for each in lines if each["request_id"] == "mine"]
    assert [(each["key"], each["outcome"], each["characters"]) for each in mine] == [
        ("ann", "eos", 7),
        ("ann", "eos", 4),
    ]
    assert 'http_requests_total{route="/v1/speak",status="101"}' in keyed.metrics()


def test_two_hundred_sockets_leave_nothing_behind(gateway: RunningGateway, triton: FakeTriton) -> None:
    """Cancels, callers that leave, and callers that do not read; a refusal is a right answer too."""
    triton.script = speak_tone(pace_s=0.005, frames_per_chunk=5)
    chance = random.Random(200)
    seen: Counter[str] = Counter()

    async def socket(number: int, seed: float) -> None:
        luck = random.Random(seed)
        path = PATHS[number % len(PATHS)]
        slow = number % 7 == 0
        async with async_connect(
            f"ws://127.0.0.1:{gateway.http_port}{path}",
            compression=None,
            max_queue=1 if slow else 16,
            close_timeout=0.2,
        ) as connection:
            reading = asyncio.create_task(read(connection, slow, luck))
            for index in range(luck.randint(1, 4)):
                id, text = f"c{index}", "This is a sentence of the soak. And here is another one, which is longer."
                match path:
                    case "/tts/websocket":
                        messages, cancel = [turn(text, id)], [{"context_id": id, "cancel": True}]
                    case "/v1/speak":
                        messages, cancel = [{"type": "Speak", "text": text}, {"type": "Flush"}], [{"type": "Clear"}]
                    case _:
                        messages = [{"text": text, "context_id": id, "flush": True}]
                        cancel = [{"context_id": id, "close_context": True}] if "multi" in path else []
                for message in messages:
                    await connection.send(json.dumps(message))
                await asyncio.sleep(luck.random() * 0.3)
                for message in cancel if luck.random() < 0.7 else []:
                    await connection.send(json.dumps(message))
            if luck.random() < 0.3:
                connection.transport.abort()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def read(connection: Any, slow: bool, luck: random.Random) -> None:
        async for message in connection:
            seen["error" if isinstance(message, str) and '"error' in message.lower() else "other"] += 1
            if slow:
                await asyncio.sleep(0.5)

    async def run() -> None:
        results = await asyncio.gather(
            *(socket(number, chance.random()) for number in range(200)), return_exceptions=True
        )
        failed = [each for each in results if isinstance(each, Exception) and not isinstance(each, ConnectionClosed)]
        assert not failed, failed[:3]

    asyncio.run(run())
    assert seen["other"]

    wait_until(lambda: "\nmisotts_gateway_streams 0.0\n" in gateway.metrics(), 10)
    assert speak(gateway.http_port).status == 200


TEXT = {"text": "Hello."}
ELEVENLABS = "/v1/text-to-speech/alloy"
NAMED = [
    ("/v1/audio/speech", {"input": "Hello.", "voice": "alloy"}, "input", "voice", "session"),
    ("/tts/bytes", turn("Hello."), "transcript", "voice", "x-misotts-session"),
    (ELEVENLABS, TEXT, "text", "voice_id", "x-misotts-session"),
    ("/v1/speak", TEXT, "text", "model", "x-misotts-session"),
    (CARTESIA, turn("Hello."), "transcript", "voice", "x-misotts-session"),
    (f"{ELEVENLABS}/stream-input", {**TEXT, "flush": True}, "text", "voice_id", "x-misotts-session"),
]


@pytest.mark.parametrize(("path", "message", "text", "voice", "session"), NAMED)
def test_the_models_refusals_name_the_callers_fields(
    port: int, triton: FakeTriton, path: str, message: dict[str, Any], text: str, voice: str, session: str
) -> None:
    for code, field, named in (
        ("INVALID_ARGUMENT", "TEXT", text),
        ("NOT_FOUND", "VOICE", voice),
        ("INVALID_ARGUMENT", "SESSION", session),
    ):
        triton.script = lambda _, __, words=f"{code}: {field}: is wrong": iter([refusal(words)])  # type: ignore[misc]
        if path.endswith(("websocket", "input")):
            with talking(port, path) as talker:
                talker.send(message)
                told = json.dumps(talker.next())
        else:
            told = request(port, "POST", path, message).body.decode()
        assert f'"{named}: is wrong"' in told
