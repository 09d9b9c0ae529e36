"""`stream-input` and `multi-stream-input`."""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from starlette.websockets import WebSocket

from misotts_client.errors import InvalidArgument, MisoError
from misotts_gateway.callers import Caller
from misotts_gateway.elevenlabs.errors import error_message
from misotts_gateway.elevenlabs.schema import alignment, read_query
from misotts_gateway.http.service import Service
from misotts_gateway.json_fields import Fields, read_flag, read_text
from misotts_gateway.sockets.conversation import Closing
from misotts_gateway.sockets.limits import MAX_ID
from misotts_gateway.sockets.socket import NORMAL, SocketProtocol, closing_for
from misotts_gateway.sockets.turn import SocketTurn, make_place
from misotts_gateway.text.times import Timed, characters

OPENING = " "
"""The first message of a context has this text, which is not spoken."""


class _ElevenLabsSocket(SocketProtocol):
    def __init__(self, service: Service, caller: Caller, websocket: WebSocket) -> None:
        super().__init__(service, caller, websocket)
        self.query = read_query(service, caller.tenant, websocket)
        self.idle_s = self.query.idle_s

    @abstractmethod
    async def turn_failed(self, error: MisoError, turn: Context) -> None:
        """Tell of a turn that cannot go on."""


class StreamInput(_ElevenLabsSocket):
    """`stream-input`: one turn; the empty text ends it, and the socket."""

    def __init__(self, service: Service, caller: Caller, websocket: WebSocket) -> None:
        super().__init__(service, caller, websocket)
        self._turn: Context | None = None

    async def receive(self, content: dict[str, Any]) -> None:
        """Take a message: text, or the end."""
        fields = Fields(content)
        flush = fields.take("flush", False, read_flag)
        text = fields.take("text", None, read_text) if flush else fields.required("text", read_text)
        if self._turn is None:
            self._turn = Context(self)
            text = None if text == OPENING else text
        if self._turn.closing:
            raise InvalidArgument("text", "must not come after the empty text, which ends the stream")
        if text == "":
            self._turn.finish()
        else:
            await self._turn.take(text or "", flush)

    async def refuse(self, error: MisoError, content: dict[str, Any]) -> None:
        await self.send(error_message(error))

    async def turn_failed(self, error: MisoError, turn: Context) -> None:
        await self.send(error_message(error))
        raise closing_for(error)


class MultiStreamInput(_ElevenLabsSocket):
    """`multi-stream-input`: a turn for each context."""

    def __init__(self, service: Service, caller: Caller, websocket: WebSocket) -> None:
        super().__init__(service, caller, websocket)
        self.contexts: dict[str, Context] = {}
        """Those that have not ended, by name."""
        self.ended: Context | None = None
        """The last one that has ended by itself: its audio may still be played."""
        self._finishing = False
        """True once the caller has asked to close the socket."""

    async def receive(self, content: dict[str, Any]) -> None:
        """Take a message: text for a context, its end, or the end of all."""
        fields = Fields(content)
        if fields.take("close_socket", False, read_flag):
            self._finish()
            return
        id = fields.take("context_id", "default", _context_id)
        if fields.take("close_context", False, read_flag):
            await self._close(id)
            return
        flush = fields.take("flush", False, read_flag)
        text = fields.take("text", "", read_text) if flush else fields.required("text", read_text)
        context = self.contexts.get(id)
        if context is None:
            if not text and not flush:
                return  # it keeps the socket open, and opens no context
            if self._finishing:
                raise InvalidArgument("text", "must not come after close_socket, which ends all contexts")
            make_place(self.contexts)
            context = self.contexts[id] = Context(self, id)
            text = "" if text == OPENING else text
        elif context.closing:
            raise InvalidArgument("context_id", f"{id[:80]!r} was closed, and still speaks")
        await context.take(text, flush)

    async def refuse(self, error: MisoError, content: dict[str, Any]) -> None:
        id = content.get("context_id")
        await self.send(error_message(error) | ({"contextId": id} if isinstance(id, str) else {}))

    async def turn_failed(self, error: MisoError, turn: Context) -> None:
        await self.send(error_message(error) | turn.named)

    async def _close(self, id: str) -> None:
        """Close a context: after a flush without text it says what is left, else it ends now. A second close ends it
        now. One that has ended, or never was, needs no answer; of the last one that has ended, the next turn is told
        what was heard."""
        context = self.contexts.get(id)
        if context is None:
            if self.ended and self.ended.named == {"contextId": id}:
                await self.ended.cancel()
            return
        if context.flushed and not context.closing:
            context.finish()
        else:
            await context.stop()

    def _finish(self) -> None:
        """Close the socket when all has been said."""
        if self._finishing:
            return
        self._finishing = True

        async def close() -> None:
            raise Closing(NORMAL, "")

        for context in self.contexts.values():
            if not context.closing:
                context.finish()
        self.conversation.then(Context(self), close)


class Context(SocketTurn):
    """One turn.

    Attributes:
        flushed: True if a flush without text was the last message.
        named: the field that names the context in messages; empty on `stream-input`.
    """

    def __init__(self, socket: _ElevenLabsSocket, id: str | None = None) -> None:
        """`id`: the name of the context; None on `stream-input`."""
        query = socket.query
        super().__init__(socket.service, socket.conversation, query.request, query.format, query.rate, spans=characters)
        self.flushed = False
        self.named = {} if id is None else {"contextId": id}
        self._socket, self._id = socket, id

    async def take(self, text: str, flush: bool) -> None:
        """Take a message of the context."""
        self.flushed = flush and not text
        await self.add(text, complete=flush or self._socket.query.complete)

    def finish(self) -> None:
        """End the context when all has been said."""
        self.flush()
        self.closing = True
        self.conversation.then(self, self._end)

    async def stop(self) -> None:
        """End the context now."""
        await self.cancel()
        await self._final()

    async def send_audio(self, raw: bytes, times: Sequence[Timed], began_s: float) -> None:
        aligned = alignment(times, began_s, self.audio_s) if times or self.audio_s > began_s else None
        audio = base64.b64encode(raw).decode() if raw else None
        message = {"audio": audio, "isFinal": None, "alignment": aligned, "normalizedAlignment": aligned}
        await self._socket.send(message | self.named)

    async def failed(self, error: MisoError) -> None:
        self._forget()
        await self._socket.turn_failed(error, self)

    async def _end(self) -> None:
        await self.finish_audio()
        self.over = True
        if isinstance(self._socket, MultiStreamInput):
            self._socket.ended = self
        await self._final()

    async def _final(self) -> None:
        self._forget()
        await self._socket.send({"audio": None, "isFinal": True, **self.named})
        if self._id is None:
            raise Closing(NORMAL, "")

    def _forget(self) -> None:
        if isinstance(self._socket, MultiStreamInput) and self._socket.contexts.get(self._id or "") is self:
            del self._socket.contexts[self._id or ""]


def _context_id(name: str, value: Any) -> str:
    text = read_text(name, value)
    if len(text) > MAX_ID:
        raise InvalidArgument(name, f"must have at most {MAX_ID} characters, got {len(text)}")
    return text
