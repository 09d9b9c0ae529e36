"""`/v1/speak` as a WebSocket: text, Flush, Clear and Close; audio in binary messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.websockets import WebSocket

from misotts_client.errors import MisoError
from misotts_client.request import SpeechRequest
from misotts_gateway.callers import Caller
from misotts_gateway.deepgram.errors import error_message
from misotts_gateway.deepgram.schema import read_query
from misotts_gateway.http.service import Service
from misotts_gateway.json_fields import Fields, read_text
from misotts_gateway.sockets.conversation import Closing
from misotts_gateway.sockets.socket import NORMAL, SocketProtocol, closing_for
from misotts_gateway.sockets.turn import SocketTurn
from misotts_gateway.text.times import Timed

TYPES = ("Speak", "Flush", "Clear", "Close")


class DeepgramSocket(SocketProtocol):
    """One WebSocket."""

    def __init__(self, service: Service, caller: Caller, websocket: WebSocket) -> None:
        super().__init__(service, caller, websocket)
        self.query = read_query(websocket, file=False)
        chosen = service.voices.resolve(self.query.voice, caller.tenant)
        self.request = SpeechRequest("", voice=chosen.voice, speaker=chosen.speaker)
        self.request_id: str = websocket.state.request_id
        self._turn = Reply(self)
        self._waiting: list[Reply] = []
        """Turns whose Flush has no answer yet."""
        self._sequence = 0

    async def opened(self) -> None:
        model = self.query.voice or "default"
        metadata = {"model_name": model, "model_version": "1", "model_uuid": self.request_id}
        await self.send({"type": "Metadata", "request_id": self.request_id, **metadata})

    async def receive(self, content: dict[str, Any]) -> None:
        """Take a message."""
        fields = Fields(content)
        match fields.one_of("type", None, TYPES):
            case "Speak":
                await self._turn.add(fields.required("text", read_text))
            case "Flush":
                self.conversation.check(0)
                self._flush()
            case "Clear":
                await self._clear()
                await self.answer("Cleared")
            case _:
                flushes = len(self._waiting)
                await self._clear()
                for _ in range(flushes):
                    await self.answer("Flushed")
                raise Closing(NORMAL, "")

    async def refuse(self, error: MisoError, content: dict[str, Any]) -> None:
        await self.send(error_message(error))

    async def answer(self, type: str) -> None:
        """Tell that a message has been done."""
        sequence, self._sequence = self._sequence, self._sequence + 1
        await self.send({"type": type, "sequence_id": sequence})

    def done(self, turn: Reply) -> None:
        """Take note that a Flush has been answered."""
        self._waiting.remove(turn)

    def _flush(self) -> None:
        """Speak what waits, and answer when all of it has been said."""
        self._turn.finish()
        self._waiting.append(self._turn)
        self._turn = Reply(self)

    async def _clear(self) -> None:
        """Say nothing more of what has come."""
        self._turn.forget()
        self._turn, self._waiting = Reply(self), []
        await self.conversation.cancel()


class Reply(SocketTurn):
    """What is said up to one Flush: one turn."""

    def __init__(self, socket: DeepgramSocket) -> None:
        query = socket.query
        super().__init__(socket.service, socket.conversation, socket.request, query.format, query.rate)
        self._socket = socket

    def finish(self) -> None:
        """Answer when all has been said."""
        self.flush()
        self.closing = True
        self.conversation.then(self, self._flushed)

    async def send_audio(self, raw: bytes, times: Sequence[Timed], began_s: float) -> None:
        if raw:
            await self._socket.send(raw)

    async def failed(self, error: MisoError) -> None:
        await self._socket.send(error_message(error))
        raise closing_for(error)

    async def _flushed(self) -> None:
        await self.finish_audio()
        self.over = True
        self._socket.done(self)
        await self._socket.answer("Flushed")
