"""`/tts/websocket`: contexts, each with its text, its audio and its word times."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from time import perf_counter
from typing import Any
from uuid import uuid4

from starlette.websockets import WebSocket

from misotts_client.errors import InvalidArgument, MisoError
from misotts_gateway.callers import Caller
from misotts_gateway.cartesia.errors import error_content
from misotts_gateway.cartesia.schema import REPEATED, Settings, read_context_id, read_settings, times_content
from misotts_gateway.http.service import Service
from misotts_gateway.json_fields import Fields, read_flag, read_text
from misotts_gateway.sockets.socket import SocketProtocol
from misotts_gateway.sockets.turn import SocketTurn, make_place
from misotts_gateway.text.times import Timed, words


class CartesiaSocket(SocketProtocol):
    """One WebSocket."""

    def __init__(self, service: Service, caller: Caller, websocket: WebSocket) -> None:
        super().__init__(service, caller, websocket)
        self.request_id: str = websocket.state.request_id
        self.contexts: dict[str, Context] = {}
        """The open ones, by name."""
        self.ended: Context | None = None
        """The last one that has ended by itself: its audio may still be played."""

    async def receive(self, content: dict[str, Any]) -> None:
        """Take a message: text for a context, or its cancel."""
        fields = Fields(content)
        id = fields.take("context_id", "", read_context_id)
        if fields.take("cancel", False, read_flag):
            if not id:
                raise InvalidArgument("context_id", "is required with cancel, it was left out")
            if id in self.contexts:  # one that has ended before, or never was, needs no answer
                await self.contexts.pop(id).stop()
            elif self.ended and self.ended.id == id:
                await self.ended.cancel()  # the next turn is told what was heard of it
            return
        more, flush = fields.take("continue", False, read_flag), fields.take("flush", False, read_flag)
        text = fields.take("transcript", "", read_text) if more or flush else fields.required("transcript", read_text)
        context = self._context(id or str(uuid4()), fields, text)
        await context.take(text, flush, more)

    async def refuse(self, error: MisoError, content: dict[str, Any]) -> None:
        """Tell the caller that a message was wrong. The context that it names goes on."""
        id = content.get("context_id")
        await self.send_error(error, id if isinstance(id, str) else None)

    async def send_error(self, error: MisoError, id: str | None) -> None:
        described = error_content(error, self.request_id)
        await self.send({"type": "error", "done": True, **described, "context_id": id})

    def _context(self, id: str, fields: Fields, text: str) -> Context:
        """Return the context of a message, which opens it if there is none of its name."""
        found = self.contexts.get(id)
        if found is None:
            context = Context(self, id, read_settings(fields))
            make_place(self.contexts)
            self.contexts[id] = context
            return context
        if found.closing:
            raise InvalidArgument("context_id", f"{id[:80]!r} has had its last message, and still speaks")
        if text and "output_format" in fields.given:  # Cartesia's own client ends a context with a voice of its own
            now = read_settings(fields)
            changed = [name for name in REPEATED if name in fields.given and not found.settings.agrees(now, name)]
            if changed:
                raise InvalidArgument(changed[0], "must be the same in all messages of a context")
        return found


class Context(SocketTurn):
    """One context: a turn."""

    def __init__(self, socket: CartesiaSocket, id: str, settings: Settings) -> None:
        """Raises NotFound if there is no such voice."""
        service = socket.service
        super().__init__(
            service,
            socket.conversation,
            settings.request(service, socket.caller.tenant),
            settings.format,
            settings.rate,
            spans=words if settings.words else None,
            delay_s=settings.delay_ms / 1000,
        )
        self.settings = settings
        self.id = id
        self._socket = socket
        self._flush_id = 1
        self._sent_at = perf_counter()

    async def take(self, text: str, flush: bool, more: bool) -> None:
        """Take a message of the context.

        Args:
            more: False if it is the last one.
        """
        await self.add(text, complete=flush or not more or not self.settings.delay_ms)
        if flush and more:
            self.conversation.then(self, self._flushed)
        if not more:
            self.closing = True
            self.conversation.then(self, self._done)

    async def stop(self) -> None:
        """End the context now."""
        await self.cancel()
        await self._send({"type": "done", "done": True, "status_code": 200})

    async def send_audio(self, raw: bytes, times: Sequence[Timed], began_s: float) -> None:
        if times:
            timed = {"type": "timestamps", "done": False, "status_code": 206, "word_timestamps": times_content(times)}
            await self._send({**timed, "flush_id": self._flush_id})
        if raw:
            now = perf_counter()
            step_ms, self._sent_at = round((now - self._sent_at) * 1000, 3), now
            data = base64.b64encode(raw).decode()
            chunk = {"type": "chunk", "data": data, "done": False, "status_code": 206, "step_time": step_ms}
            await self._send({**chunk, "flush_id": self._flush_id})

    async def failed(self, error: MisoError) -> None:
        self.forget()
        self._close()
        await self._socket.send_error(error, self.id)

    async def _flushed(self) -> None:
        await self.finish_audio()
        flushed = {"flush_id": self._flush_id, "flush_done": True}
        self._flush_id += 1
        await self._send({"type": "flush_done", "done": False, "status_code": 206, **flushed})

    async def _done(self) -> None:
        await self.finish_audio()
        self.over = True
        self._close()
        self._socket.ended = self
        await self._send({"type": "done", "done": True, "status_code": 200})

    async def _send(self, content: dict[str, Any]) -> None:
        await self._socket.send({**content, "context_id": self.id})

    def _close(self) -> None:
        if self._socket.contexts.get(self.id) is self:
            del self._socket.contexts[self.id]
