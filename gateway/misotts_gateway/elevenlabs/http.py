"""`POST /v1/text-to-speech/{voice_id}`, whole or as a stream, with and without times."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request

from misotts_client.errors import InvalidArgument
from misotts_gateway.elevenlabs.errors import refusal
from misotts_gateway.elevenlabs.schema import http_alignment, output_format
from misotts_gateway.http.answer import StreamingAnswer
from misotts_gateway.http.service import Service
from misotts_gateway.http.spoken import SpokenText, TimedAudio, read_fields, spoken_text
from misotts_gateway.json_fields import read_text, whole
from misotts_gateway.text.times import Timed, characters

MAX_WHOLE = 5_000
"""Code points of a text whose whole answer is put together in memory: at most 31 MB."""

Pieces = AsyncGenerator[TimedAudio]


class ElevenLabsHttp:
    """Answers requests for speech."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def audio(self, request: Request) -> StreamingAnswer:
        """Speak as one file, which is sent as it is made."""
        format, rate = output_format(request)
        text = await self._text(request)
        headers = {"content-type": format.content_type}
        return StreamingAnswer(lambda: text.raw(format, rate), lambda: headers, refusal)

    async def timed_lines(self, request: Request) -> StreamingAnswer:
        """Speak as lines of JSON with audio and the times in it."""
        return await self._timed(request, "application/x-ndjson", _lines)

    async def timed(self, request: Request) -> StreamingAnswer:
        """Speak as one JSON object with all audio and times."""
        return await self._timed(request, "application/json", _whole, MAX_WHOLE)

    async def _timed(
        self,
        request: Request,
        content_type: str,
        write: Callable[[Pieces], AsyncGenerator[bytes]],
        longest: int | None = None,
    ) -> StreamingAnswer:
        format, rate = output_format(request)
        text = await self._text(request, longest)
        headers = {"content-type": content_type}
        return StreamingAnswer(lambda: write(text.audio(format, rate, characters)), lambda: headers, refusal)

    async def _text(self, request: Request, longest: int | None = None) -> SpokenText:
        """Return the text of a request.

        Args:
            longest: code points of the longest text; None: the server's own limit.

        Raises:
            WrongType, TooLarge, MisoError: the request is refused.
        """
        fields = await read_fields(request, self._service)
        text = fields.required("text", read_text)
        if longest and len(text) > longest:
            raise InvalidArgument("text", f"must be at most {longest} code points here, got {len(text)}")
        seed = fields.take("seed", None, whole(0, 2**32 - 1))
        return await spoken_text(self._service, request, text, request.path_params["voice_id"], "text", seed=seed)


async def _lines(pieces: Pieces) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        async for piece in pieces:
            yield _object(piece.base64, list(piece.times)) + b"\n"


async def _whole(pieces: Pieces) -> AsyncGenerator[bytes]:
    raw, times = [], list[Timed]()
    async with aclosing(pieces):
        async for piece in pieces:
            raw.append(piece.raw)
            times += piece.times
    yield _object(base64.b64encode(b"".join(raw)).decode(), times)


def _object(audio: str, times: list[Timed]) -> bytes:
    aligned: Any = http_alignment(times) if times else None
    content = {"audio_base64": audio, "alignment": aligned, "normalized_alignment": aligned}
    return json.dumps(content, separators=(",", ":")).encode()
