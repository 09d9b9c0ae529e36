"""The HTTP application in this process, before a core that answers at once."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
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
    def admit(self, caller: Caller) -> Iterator[None]:
        yield

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
