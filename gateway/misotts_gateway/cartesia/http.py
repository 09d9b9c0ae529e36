"""`POST /tts/bytes` and `POST /tts/sse`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request

from misotts_client.errors import MisoError
from misotts_gateway.cartesia.errors import error_content, refusal
from misotts_gateway.cartesia.schema import read_context_id, read_settings, times_content
from misotts_gateway.http.answer import StreamingAnswer
from misotts_gateway.http.service import Service
from misotts_gateway.http.spoken import TimedAudio, read_fields, spoken_text
from misotts_gateway.json_fields import read_text
from misotts_gateway.text.times import words

CONTAINERS = ("raw", "wav", "mp3")


class CartesiaHttp:
    """Answers requests for speech."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def bytes(self, request: Request) -> StreamingAnswer:
        """Speak as one file, or as raw samples.

        Raises:
            WrongType, TooLarge, MisoError: the request is refused.
        """
        fields = await read_fields(request, self._service)
        settings = read_settings(fields, CONTAINERS)
        transcript = fields.required("transcript", read_text)
        text = await spoken_text(self._service, request, transcript, settings.voice, "transcript")
        headers = {"content-type": settings.format.content_type}
        return StreamingAnswer(lambda: text.raw(settings.format, settings.rate), lambda: headers, refusal)

    async def events(self, request: Request) -> StreamingAnswer:
        """Speak as server-sent events, like the messages of the WebSocket.

        Raises:
            WrongType, TooLarge, MisoError: the request is refused.
        """
        fields = await read_fields(request, self._service)
        settings = read_settings(fields)
        transcript = fields.required("transcript", read_text)
        id = fields.take("context_id", request.state.request_id, read_context_id)
        text = await spoken_text(self._service, request, transcript, settings.voice, "transcript")

        async def make() -> AsyncGenerator[bytes]:
            begun = False
            pieces = text.audio(settings.format, settings.rate, words if settings.words else None)
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        begun = True
                        for event in _events(piece, id):
                            yield event
            except MisoError as error:
                if not begun:
                    raise
                yield _event("error", {"done": True, **error_content(error, request.state.request_id)}, id)
                return
            yield _event("done", {"done": True, "status_code": 200}, id)

        return StreamingAnswer(make, lambda: {"content-type": "text/event-stream"}, refusal)


def _events(piece: TimedAudio, id: str) -> list[bytes]:
    told = {"done": False, "status_code": 206}
    events = []
    if piece.times:
        events.append(_event("timestamps", {**told, "word_timestamps": times_content(piece.times)}, id))
    if piece.raw:
        events.append(_event("chunk", {**told, "data": piece.base64, "step_time": 0.0}, id))
    return events


def _event(type: str, content: dict[str, Any], id: str) -> bytes:
    told = json.dumps({"type": type, **content, "context_id": id}, separators=(",", ":"))
    return f"event: {type}\ndata: {told}\n\n".encode()
