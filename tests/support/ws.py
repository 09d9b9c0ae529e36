"""A caller of a gateway's WebSockets."""

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

NUMBERS = [
    *("Dr. ", "Smith ", "paid ", "$3.", "50 ", "at ", "9 ", "a.m. ", "for ", "v1.", "0.", "2 ", "from "),
    *(
        "https://example.",
        "com/a.b?c=1.5 ",
        "(e.g. ",
        "J. ",
        "R. ",
        "Tolkien). ",
        "Was ",
        "it ",
        "22,1 ",
        "°C? ",
        "Yes.",
    ),
]
"""Full stops that end no sentence, word by word: three sentences."""


class Talker:
    """One WebSocket.

    Attributes:
        got: what has come so far: messages in JSON as objects, audio as bytes.
        times: when each of them came, in s of `time.perf_counter`.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.got: list[Any] = []
        self.times: list[float] = []

    def send(self, *messages: Any) -> None:
        """Send messages: objects as JSON, text and bytes as they are."""
        for message in messages:
            self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def next(self, timeout_s: float = 5) -> Any:
        """Return the next message."""
        message = self.connection.recv(timeout=timeout_s)
        self.got.append(json.loads(message) if isinstance(message, str) else message)
        self.times.append(time.perf_counter())
        return self.got[-1]

    def until(self, holds: Callable[[Any], Any], timeout_s: float = 5) -> list[Any]:
        """Return what comes up to the first message for which `holds`, that one last."""
        start = len(self.got)
        while not holds(self.next(timeout_s)):
            pass
        return self.got[start:]

    def quiet(self, seconds: float) -> bool:
        """True if nothing comes for a time."""
        try:
            self.next(seconds)
        except TimeoutError:
            return True
        return False

    def closed(self, timeout_s: float = 5) -> tuple[int, str]:
        """Return the code and the reason with which the server closes; what comes before it is in `got`."""
        with suppress(ConnectionClosed):
            while True:
                self.next(timeout_s)
        return self.connection.close_code or 0, self.connection.close_reason or ""


@contextmanager
def talking(port: int, path: str, headers: Mapping[str, str] | None = None, **options: Any) -> Iterator[Talker]:
    """Open a WebSocket of a gateway for as long as the block runs."""
    url = f"ws://127.0.0.1:{port}{path}"
    with connect(url, additional_headers=headers, compression=None, close_timeout=1, **options) as connection:
        yield Talker(connection)


def joined(messages: list[Any], field: str) -> bytes:
    """Return the audio in messages in JSON, end to end."""
    return b"".join(base64.b64decode(each[field]) for each in messages if each.get(field))


CARTESIA = "/tts/websocket"
FORMAT = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}


def turn(transcript: Any, context: Any = "a", more: bool = False, **fields: Any) -> dict[str, Any]:
    """Return a message in Cartesia's form."""
    settings = {"model_id": "sonic", "voice": {"mode": "id", "id": "alloy"}, "output_format": FORMAT}
    return {**settings, "transcript": transcript, "context_id": context, "continue": more, **fields}


def done(context: str = "a") -> Callable[[Any], bool]:
    """Return a function that is true for the message that ends one of Cartesia's contexts."""
    return lambda message: bool(message["done"] and message["context_id"] == context)
