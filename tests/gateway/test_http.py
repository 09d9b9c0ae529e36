"""What all HTTP protocols share: keys, limits of a key, other origins, metrics, addresses, the end of the process."""

import json
import re
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_triton import FakeTriton, endless, refusal, running, silent
from tests.support.gateway import RunningGateway, running_gateway, write_keys
from tests.support.http import JSON, SPEECH, arrivals, audio_of, dechunked, events, opened, read_until, request, speak
from tests.support.tone import samples_of, speak_tone
from tests.support.waiting import wait_until

ORIGIN = "https://app.example"
KEYS: dict[str, dict[str, Any]] = {
    "k-plain": {"name": "plain"},
    "k-other": {"name": "other"},
    "k-one": {"name": "one", "streams": 1, "requests_per_minute": 100},
    "k-two": {"name": "two", "streams": 1, "requests_per_minute": 2},
}


@pytest.fixture(scope="module")
def guarded_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTriton]:
    with running(f"{tmp_path_factory.mktemp('run')}/grpc:1") as triton:
        yield triton


@pytest.fixture(scope="module")
def guarded(guarded_triton: FakeTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with keys, and one allowed origin."""
    keys = write_keys(tmp_path_factory.mktemp("keys") / "keys.json", KEYS)
    with running_gateway(guarded_triton.url, f"--api-keys={keys}", f"--allow-origin={ORIGIN}") as running_one:
        yield running_one


@pytest.fixture
def port(guarded: RunningGateway, guarded_triton: FakeTriton) -> int:
    guarded_triton.reset()
    guarded_triton.script = speak_tone()
    return guarded.http_port


def bearer(token: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer k-plain"},
        {"authorization": "bearer k-plain"},
        {"authorization": "Token k-plain"},
        {"authorization": "Bearer  k-plain "},
        {"xi-api-key": "k-plain"},
        {"X-API-Key": " k-plain "},
        {"authorization": "Bearer k-plain", "x-api-key": "k-plain"},
    ],
)
def test_ways_to_show_a_key(port: int, headers: dict[str, str]) -> None:
    assert speak(port, headers={**JSON, **headers}).status == 200


@pytest.mark.parametrize("name", ["api_key", "access_token"])
def test_a_key_in_the_query(port: int, name: str) -> None:
    assert request(port, "POST", f"{SPEECH}?{name}={urllib.parse.quote('k-plain')}", {"input": "Hi."}).status == 200
    assert request(port, "POST", f"{SPEECH}?{name}=x", {"input": "Hi."}).status == 401


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"authorization: Bearer wrong\r\n",
        b"authorization: Bearer caf\xe9\r\n",
        "authorization: Bearer “k-plain”\r\n".encode(),
        b"authorization: Bearer " + b"k" * 10_000 + b"\r\n",
        b"authorization: Bearer \r\n",
        b"authorization: Bearer k-plain\r\nauthorization: Bearer wrong\r\n",
        b"authorization: Bearer k-plain\r\nx-api-key: k-other\r\n",
    ],
)
def test_keys_that_are_refused(port: int, guarded_triton: FakeTriton, raw: bytes) -> None:
    body = b'{"input":"Hi."}'
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = f"POST {SPEECH} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n"
        connection.sendall(head.encode() + raw + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        given = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert given.startswith(b"HTTP/1.1 401 ")
    error = json.loads(given.partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["param"]) == ("invalid_api_key", None)
    assert b"k-plain" not in given
    assert not guarded_triton.requests


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/misotts", "/v1/audio/voices"])
def test_every_path_of_the_api_needs_a_key(port: int, path: str) -> None:
    assert request(port, "GET", path).status == 401
    assert request(port, "GET", path, headers=bearer("k-plain")).status == 200


def test_the_page_needs_none(port: int) -> None:
    assert request(port, "GET", "/").status == 200
    assert request(port, "GET", "/page/app.js").headers["content-type"].startswith("text/javascript")


def served_within(port: int, token: str, seconds: float) -> None:
    """Check that the key's next request is served within a time."""
    limit = time.monotonic() + seconds
    while (given := speak(port, headers=bearer(token), response_format="pcm")).status == 429:
        assert time.monotonic() < limit, given.body
        time.sleep(0.02)
    assert given.status == 200


def test_the_only_stream_of_a_key_comes_back(port: int, guarded_triton: FakeTriton) -> None:
    for _ in range(10):  # dropped after the first event
        guarded_triton.script = endless
        with opened(
            port, {"input": "Hi.", "response_format": "pcm", "stream_format": "sse"}, bearer("k-one")
        ) as connection:
            read_until(connection, b"delta")
        guarded_triton.script = speak_tone()
        served_within(port, "k-one", 1)
    for _ in range(5):  # refused
        assert speak(port, headers=bearer("k-one"), voice="unknown").status == 404
    served_within(port, "k-one", 1)
    guarded_triton.script = silent  # never answered
    guarded_triton.requests.clear()
    with opened(port, {"input": "Hi."}, bearer("k-one")):
        wait_until(lambda: bool(guarded_triton.requests), 5)
        given = speak(port, headers=bearer("k-one"))
        assert (given.status, given.error["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(given.headers["retry-after"]) <= 60
    guarded_triton.script = speak_tone()
    served_within(port, "k-one", 1)


def test_a_refusal_for_streams_uses_up_no_request_of_the_minute(port: int, guarded_triton: FakeTriton) -> None:
    guarded_triton.script = endless
    with opened(port, {"input": "Hi.", "response_format": "pcm"}, bearer("k-two")) as connection:
        read_until(connection, b"audio/pcm")
        assert speak(port, headers=bearer("k-two")).status == 429
    guarded_triton.script = speak_tone()
    served_within(port, "k-two", 1)
    given = speak(port, headers=bearer("k-two"))
    assert given.status == 429
    assert 1 <= int(given.headers["retry-after"]) <= 60


def test_a_long_text_is_one_request_and_one_stream(port: int, guarded_triton: FakeTriton) -> None:
    text = "This is a sentence of some length, and it ends. " * 30
    assert speak(port, text, headers=bearer("k-one"), response_format="pcm").status == 200
    assert len(guarded_triton.requests) > 3


def test_pages_of_an_allowed_origin(port: int) -> None:
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,xi-api-key",
    }
    given = request(port, "OPTIONS", SPEECH, headers=asked)
    assert given.status == 200
    assert given.headers["access-control-allow-origin"] == ORIGIN
    allowed = {name.strip() for name in given.headers["access-control-allow-headers"].lower().split(",")}
    assert {"authorization", "content-type", "xi-api-key"} <= allowed
    for refused in (
        speak(port, headers={**bearer("wrong"), "origin": ORIGIN}),
        speak(port, "", headers={**bearer("k-plain"), "origin": ORIGIN}),
    ):
        assert refused.status in (400, 401)
        assert refused.headers["access-control-allow-origin"] == ORIGIN
        exposed = refused.headers["access-control-expose-headers"].lower()
        assert "x-request-id" in exposed
        assert "retry-after" in exposed
    stranger = {**asked, "origin": "https://evil.example"}
    assert "access-control-allow-origin" not in request(port, "OPTIONS", SPEECH, headers=stranger).headers


def test_a_trailing_slash_is_not_redirected(port: int) -> None:
    headers = {**bearer("k-plain"), "x-forwarded-proto": "https", "host": "tts.example"}
    given = request(port, "POST", f"{SPEECH}/", {"input": "Hi."}, headers)
    assert given.status == 404
    assert given.error
    assert "location" not in given.headers


def test_the_request_id_comes_back(port: int, guarded: RunningGateway) -> None:
    for headers in (bearer("k-plain"), JSON):
        given = speak(port, headers={**headers, "x-request-id": "abc-1"})
        assert given.headers["x-request-id"] == "abc-1"
    assert re.fullmatch(
        r"[0-9a-f]{16}", request(port, "GET", "/nope", headers={"x-request-id": "a b"}).headers["x-request-id"]
    )


def test_a_method_or_path_that_is_not_there(port: int) -> None:
    assert request(port, "PUT", SPEECH).status == 405
    assert request(port, "GET", "/v2/models").error["type"] == "invalid_request_error"


def test_the_number_of_series_does_not_grow(port: int, guarded: RunningGateway) -> None:
    request(port, "FOO", "/a")
    request(port, "GET", "/a")
    request(port, "DELETE", "/v1/audio/voices/a", headers=bearer("k-plain"))
    before = guarded.metrics()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for index in range(2_000):
            method = ("GET", "FOO", "PROPFIND")[index % 3]
            connection.sendall(f"{method} /x{index}/y?z={index} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            read_until(connection, b"}}")
    for index in range(20):
        request(port, "DELETE", f"/v1/audio/voices/v{index}", headers=bearer("k-plain"))
    started = time.perf_counter()
    after = guarded.metrics()
    assert time.perf_counter() - started < 0.5
    assert after.count("\n") == before.count("\n")


def test_gauges_come_back_without_traffic(port: int, guarded: RunningGateway, guarded_triton: FakeTriton) -> None:
    def speaking() -> float:
        return float(re.findall(r"^misotts_gateway_streams (\S+)$", guarded.metrics(), re.MULTILINE)[0])

    guarded_triton.script = endless
    connections = []
    for _ in range(16):
        context = opened(port, {"input": "Hi.", "response_format": "pcm"}, bearer("k-plain"))
        connections.append((context, context.__enter__()))
    for _, connection in connections:
        read_until(connection, b"audio/pcm")
    wait_until(lambda: speaking() == 16, 5)
    for context, _ in connections:
        context.__exit__(None, None, None)
    wait_until(lambda: speaking() == 0, 2)


def test_headers_are_bounded(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n")
        for _ in range(20):
            with suppress(OSError):
                connection.sendall(b"x-a: " + b"a" * 5_000 + b"\r\n")
            time.sleep(0.01)
        given = b""
        with suppress(OSError):
            given = connection.recv(100)
        assert given == b"" or given.startswith(b"HTTP/1.1 4")


def test_streams_are_completed_when_the_process_is_told_to_end(tmp_path: Path) -> None:
    text = "x" * 60
    with running(f"{tmp_path}/grpc:1") as triton, running_gateway(triton.url) as gateway:
        triton.script = speak_tone(pace_s=0.02, frames_per_chunk=4)
        given: dict[str, tuple[bytes, bool]] = {}

        def listen(name: str, **fields: Any) -> None:
            with opened(gateway.http_port, {"input": text, **fields}) as connection:
                raw = b"".join(piece for _, piece in arrivals(connection))
                given[name] = dechunked(raw.partition(b"\r\n\r\n")[2])

        fields: dict[str, dict[str, Any]] = {
            "pcm": {"response_format": "pcm"},
            "mp3": {},
            "sse": {"response_format": "pcm", "stream_format": "sse"},
            "split": {"response_format": "pcm", "input": "A sentence that is spoken to its end. " * 9},
        }
        threads = [threading.Thread(target=listen, args=(name,), kwargs=each) for name, each in fields.items()]
        with socket.create_connection(("127.0.0.1", gateway.http_port)) as kept:
            kept.sendall(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
            read_until(kept, b"versions")
            for thread in threads:
                thread.start()
            wait_until(lambda: len(triton.requests) == len(threads), 5)
            triton.script = speak_tone()  # of the split text, what is not yet asked for
            gateway.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            refused = speak(gateway.http_port, text)
            assert refused.status == 503
            assert refused.headers["connection"] == "close"
            assert refused.headers["retry-after"]
            for thread in threads:
                thread.join()
            ended = time.monotonic()
            assert gateway.process.wait(10) == 0
            assert time.monotonic() - ended < 3  # an idle connection does not hold it
    assert all(complete for _, complete in given.values())
    assert len(given["pcm"][0]) == 2 * samples_of(text)
    sent = events(given["sse"][0])
    assert (len(audio_of(sent)), sent[-1]["type"]) == (2 * samples_of(text), "speech.audio.done")
    assert len(given["mp3"][0]) > 8_000 * 3.6
    assert len(given["split"][0]) > 2 * samples_of("x" * 300)


def test_a_refusal_by_the_private_side_is_counted_by_its_route(
    port: int, guarded: RunningGateway, guarded_triton: FakeTriton
) -> None:
    guarded_triton.script = lambda request, context: iter([refusal("UNAVAILABLE: full")])
    speak(port, headers=bearer("k-plain"))
    assert 'misotts_gateway_http_requests_total{route="/v1/audio/speech",status="503"}' in guarded.metrics()
