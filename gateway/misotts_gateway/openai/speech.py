"""`POST /v1/audio/speech`: raw audio, or server-sent events."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from misotts_client.contract import FRAME_SAMPLES
from misotts_client.errors import InvalidArgument, MisoError
from misotts_client.request import SpeechRequest
from misotts_gateway.http.answer import StreamingAnswer
from misotts_gateway.http.request import check_content_type, read_body, session_name
from misotts_gateway.http.service import Service
from misotts_gateway.http.spoken import PIECE_BYTES, SHORT_BODY
from misotts_gateway.json_fields import read_json
from misotts_gateway.openai.errors import error_content, refusal
from misotts_gateway.openai.schema import SpeechBody, read_body_fields
from misotts_gateway.text.plan import plan
from misotts_gateway.text.ssml import SsmlError
from misotts_gateway.turn import Encoding, Sound, Turn, encoded, in_thread, sounds
from misotts_gateway.voices.names import Chosen

MAX_LISTED = 32
"""Names of ignored fields in the header: any client's own fields, and far from the limits of headers."""

_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Speech:
    """Answers requests for speech."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def post(self, request: Request) -> Response | StreamingAnswer:
        """Check the request; what it returns speaks.

        Raises:
            WrongType, TooLarge, MisoError: the request is refused.
        """
        service = self._service
        # Other types are those that a page of any web site may send without being asked for permission first.
        check_content_type(request, "application/json")
        raw = await read_body(request, service.max_body)
        threads = service.threads if len(raw) > SHORT_BODY else None
        body = await in_thread(threads, lambda: read_body_fields(read_json(raw), service.text))
        caller = request.state.caller
        voice = service.voices.resolve(body.voice, caller.tenant)
        threads = service.threads if body.normalize else threads
        named = session_name(request)
        turn = await in_thread(threads, lambda: _turn(body, voice, service, named))
        answer = _Answer(body, turn)

        def make() -> AsyncGenerator[bytes]:
            pieces = sounds(service.core, turn, caller)
            encoding = Encoding(body.format, body.rate, service.threads)
            return answer.events(pieces, encoding) if body.events else answer.audio(pieces, encoding)

        return StreamingAnswer(make, answer.headers, refusal)


def _turn(body: SpeechBody, voice: Chosen, service: Service, session: str | None) -> Turn:
    try:
        parts = plan(body.text, service.text, voice=voice.voice, ssml=body.ssml, normalize=body.normalize)
    except SsmlError as error:
        raise InvalidArgument("input", str(error)) from None
    if not any(isinstance(part, str) for part in parts):
        raise InvalidArgument("input", "must have a letter or a digit to speak, it has none")
    request = SpeechRequest("", voice=voice.voice, speaker=voice.speaker, **{"session": session, **body.sampling})
    return Turn(parts, request, body.max_audio_ms)


class _Answer:
    """The body of one answer, and its headers."""

    def __init__(self, body: SpeechBody, turn: Turn) -> None:
        self._body, self._turn = body, turn
        self._seed: int | None = None
        self._samples = 0

    def headers(self) -> Mapping[str, str]:
        """Return the headers, once the first piece has come."""
        headers = {
            "content-type": "text/event-stream" if self._body.events else self._body.format.content_type,
            "x-misotts-seed": str(self._seed),
        }
        if self._body.ignored:
            headers["x-misotts-ignored"] = _listed(self._body.ignored)
        return headers

    async def audio(self, pieces: AsyncGenerator[Sound], encoding: Encoding) -> AsyncGenerator[bytes]:
        """Yield one encoded stream. The first item may be empty: it says that speech has begun."""
        async with aclosing(encoded(self._noted(pieces), encoding)) as stream:
            async for raw in stream:
                yield raw

    async def events(self, pieces: AsyncGenerator[Sound], encoding: Encoding) -> AsyncGenerator[bytes]:
        """Yield the same stream in events, and the event of its end; of an error, if it comes after the beginning."""
        begun = False
        try:
            async with aclosing(self.audio(pieces, encoding)) as stream:
                async for raw in stream:
                    for start in range(0, len(raw), PIECE_BYTES):
                        audio = base64.b64encode(raw[start : start + PIECE_BYTES]).decode()
                        begun = True
                        yield _event({"type": "speech.audio.delta", "audio": audio})
        except MisoError as error:
            if not begun:
                raise
            yield _event({"type": "error", **error_content(error)})
            return
        yield _event({"type": "speech.audio.done", "usage": self._usage()})

    async def _noted(self, pieces: AsyncGenerator[Sound]) -> AsyncGenerator[Sound]:
        async with aclosing(pieces):
            async for piece in pieces:
                if self._seed is None:
                    self._seed = piece.seed
                self._samples += len(piece.audio)
                yield piece

    def _usage(self) -> dict[str, int]:
        """Return what the answer has cost: code points of the input, and frames of 80 ms."""
        text, frames = len(self._body.text), -(-self._samples // FRAME_SAMPLES)
        return {"input_tokens": text, "output_tokens": frames, "total_tokens": text + frames}


def _listed(names: Sequence[str]) -> str:
    """Return names of fields for a header; those that are not plain words as JSON has them in ASCII."""
    shown = [name if _PLAIN.fullmatch(name) else json.dumps(name[:32]) for name in names[:MAX_LISTED]]
    return ", ".join(shown + ([f"and {len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []))


def _event(content: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
