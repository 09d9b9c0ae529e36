"""The HTTP application in this process, before a core that answers at once."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from misotts_client.contract import FRAME_SAMPLES
from misotts_gateway.callers import Caller, Callers
from misotts_gateway.core import Piece
from misotts_gateway.counts import Counts
from misotts_gateway.http.service import Service
from misotts_gateway.keys import Keys
from misotts_gateway.request import Asked, ModelLimits
from misotts_gateway.text.plan import TextSettings
from misotts_gateway.voices.names import VoiceNames
from tests.support.fake_triton import answer


class OneChunk:
    """A core that answers every request with one chunk of `frames`."""

    draining = False
    model = ModelLimits()

    def __init__(self, frames: int = 1) -> None:
        self.counts = Counts()
        message = answer(frames * FRAME_SAMPLES, finish="eos")
        self._piece = Piece(b"", message, frames * FRAME_SAMPLES, frames, "eos")

    @contextmanager
    def admit(self, caller: Caller, lead_ms: int | None = None, text: str | None = None) -> Iterator[None]:
        yield

    def took_silence(self) -> None:
        pass

    def forget(self, session: str, caller: Caller) -> None:
        pass

    async def speak(self, asked: Asked, caller: Caller, admitted: bool) -> AsyncGenerator[Piece]:
        await asyncio.sleep(0)  # the network's part
        yield self._piece


class AtOnce(Executor):
    """Runs what it gets where it gets it: a thread's turn takes 1 ms on a busy machine."""

    def submit(self, action: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(action(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Uploads:
    """A library that keeps nothing."""

    async def add(self, name: str, tenant: str, clip: bytes, words: str, consent: str) -> Any:
        class Record:
            created_at = 1

        return Record()

    async def remove(self, name: str, tenant: str) -> None:
        pass


def service_before(core: Any, voices: Path, threads: Executor, max_input: int) -> Service:
    """Return a service for callers that need no key and may do everything."""
    uploads: Any = Uploads()
    text = TextSettings(max_input=max_input)
    return Service(core, Callers((), Keys(None)), text, VoiceNames(voices), uploads, threads, anyone_uploads=True)


async def call(app: Any, method: str, path: str, content_type: bytes, raw: bytes) -> tuple[int, bytes]:
    """Send a request to the application; return the status and the body of its answer."""
    incoming = [{"type": "http.request", "body": raw, "more_body": False}]
    status, body = 0, b""
    waiting = asyncio.Event()

    async def receive() -> Any:
        if not incoming:
            await waiting.wait()
        return incoming.pop()

    async def send(message: Any) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    headers = [(b"content-type", content_type)] if content_type else []
    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http"},
        **{"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers},
        **{"client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "state": {}},
    }
    await app(scope, receive, send)
    return status, body


async def converse(
    app: Any, address: str, messages: Sequence[str | bytes], pauses: bool = False, pauses_s: float = 0.0
) -> tuple[list[Any], int | None]:
    """Open a WebSocket of the application, send messages, and leave when nothing more comes.

    Args:
        pauses: True to send a message only when nothing more comes for the one before.
        pauses_s: time for each message, if threads work for it.

    Returns:
        The messages of the application, and the code with which it closed; None if it did not.
    """
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[Any] = []
    code: int | None = None

    async def send(message: Any) -> None:
        nonlocal code
        if message["type"] == "websocket.send":
            sent.append(message.get("bytes") if message.get("text") is None else message["text"])
        elif message["type"] == "websocket.close":
            code = message["code"]

    path, _, query = address.partition("?")
    scope = {
        **{"type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "root_path": ""},
        **{"path": path, "raw_path": path.encode(), "query_string": query.encode(), "headers": [], "subprotocols": []},
        **{"client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "state": {}},
        "extensions": {"websocket.http.response": {}},
    }
    incoming.put_nowait({"type": "websocket.connect"})
    running = asyncio.create_task(app(scope, incoming.get, send))
    for message in messages:
        kind = "text" if isinstance(message, str) else "bytes"
        incoming.put_nowait({"type": "websocket.receive", kind: message})
        await asyncio.sleep(pauses_s)
        if pauses:
            await _settled(sent)
    await _settled(sent)
    incoming.put_nowait({"type": "websocket.disconnect", "code": 1005})
    await running
    return sent, code


async def _settled(sent: list[Any]) -> None:
    """Return when nothing more comes."""
    quiet = 0
    while quiet < 12:
        before = len(sent)
        await asyncio.sleep(0)
        quiet = quiet + 1 if len(sent) == before else 0
