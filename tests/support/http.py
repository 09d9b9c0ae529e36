"""Requests to a gateway's HTTP port."""

import base64
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

SPEECH = "/v1/audio/speech"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """A complete answer; headers by name in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in it, which has OpenAI's four keys."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert "\n" not in error["message"]
        return dict(error)


def request(
    port: int, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON, timeout: float = 20
) -> Answer:
    """Send a request and return its answer; a body that is not bytes is sent as JSON."""
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request(method, path, raw, dict(headers))
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())


def speak(port: int, text: Any = "Hello there.", headers: Any = JSON, timeout: Any = 20, **fields: Any) -> Answer:
    """Ask for speech."""
    body = {"model": "tts-1", "input": text, "voice": "alloy", **fields}
    return request(port, "POST", SPEECH, body, headers, timeout)


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of a body of server-sent events."""
    assert body.endswith(b"\n\n")
    lines = body.decode().removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def audio_of(sent: list[dict[str, Any]]) -> bytes:
    """Return the audio in the events of one answer."""
    return b"".join(base64.b64decode(each["audio"]) for each in sent if each["type"] == "speech.audio.delta")


@contextmanager
def opened(port: int, body: Any, headers: Mapping[str, str] = JSON) -> Iterator[socket.socket]:
    """Send a request for speech and lend its socket, from which nothing has been read; then leave."""
    raw = json.dumps(body).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(
            f"POST {SPEECH} HTTP/1.1\r\nhost: a\r\n{head}content-length: {len(raw)}\r\n\r\n".encode() + raw
        )
        yield connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """Read until `mark` has come; return all that has."""
    got = b""
    while mark not in got:
        piece = connection.recv(65_536)
        assert piece, f"the connection ended before {mark!r}"
        got += piece
    return got


def arrivals(connection: socket.socket) -> list[tuple[float, bytes]]:
    """Read to the end; return what came and when, in `time.perf_counter` seconds."""
    got = []
    while piece := connection.recv(65_536):
        got.append((time.perf_counter(), piece))
        if piece.endswith(b"\r\n0\r\n\r\n") or piece == b"0\r\n\r\n":
            break
    return got


def dechunked(raw: bytes) -> tuple[bytes, bool]:
    """Return the body in chunked bytes, and True if its end came."""
    body = b""
    while raw:
        size_line, _, rest = raw.partition(b"\r\n")
        size = int(size_line or b"0", 16)
        if not size:
            return body, True
        body += rest[:size]
        raw = rest[size + 2 :]
    return body, False
