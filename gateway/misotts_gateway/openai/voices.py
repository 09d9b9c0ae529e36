"""`/v1/audio/voices`: list, upload and delete voices."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from misotts_client.contract import VOICE_NAME
from misotts_client.errors import InvalidArgument, NotFound
from misotts_gateway.http.errors import HttpError
from misotts_gateway.http.request import check_content_type, read_body
from misotts_gateway.http.service import Service
from misotts_gateway.voices.library import VoiceExists

MAX_CLIP = 10 * 2**20
"""Bytes of a clip, as OpenAI has it."""
MAX_FORM = MAX_CLIP + 2**16
MAX_CONSENT = 200
"""Code points."""
_SLICE = 2**16
"""Bytes of a form that are parsed at once, in at most 5 ms."""

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would log each form that it refuses


class VoicesApi:
    """Answers requests about voices."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def listed(self, request: Request) -> Response:
        """Return the voices that the caller can name."""
        return JSONResponse({"object": "list", "voices": self._service.voices.listed(request.state.caller.tenant)})

    async def add(self, request: Request) -> Response:
        """Add the voice in a form with `name`, `audio_sample`, `ref_text` and `consent`.

        Raises:
            HttpError, WrongType, TooLarge, MisoError: the request is refused.
        """
        library = self._service.library
        if library is None or not self._service.may_upload(request.state.caller):
            raise _forbidden()
        check_content_type(request, "multipart/form-data")
        form = await _form(request)
        try:
            name = _field(form, "name")
            if not VOICE_NAME.fullmatch(name):
                raise InvalidArgument("name", f"must match {VOICE_NAME.pattern}, got {name[:80]!r}")
            words, consent = _field(form, "ref_text"), _field(form, "consent")
            if not 1 <= len(consent) <= MAX_CONSENT:
                raise InvalidArgument("consent", f"must have 1 to {MAX_CONSENT} code points, got {len(consent)}")
            clip = await _clip(form)
        finally:
            await form.close()
        try:
            record = await library.add(name, request.state.caller.tenant, clip, words, consent)
        except VoiceExists as error:
            raise HttpError(409, str(error), param="name", code="voice_exists") from None
        answer = {"id": name, "name": name, "object": "audio.voice", "type": "audio_sample"}
        return JSONResponse({**answer, "created_at": record.created_at})

    async def remove(self, request: Request) -> Response:
        """Remove a voice of the caller's.

        Raises:
            HttpError, NotFound: the caller may not, or has no such voice.
        """
        library, caller = self._service.library, request.state.caller
        name = request.path_params["name"]
        if library is None or not self._service.may_upload(caller):
            raise _forbidden()
        if not VOICE_NAME.fullmatch(name):
            raise NotFound("VOICE", f"you have no voice named {name[:80]!r}")
        if self._service.voices.has_registered(name) and not self._service.voices.has_uploaded(name, caller.tenant):
            raise HttpError(403, f"{name!r} is a voice of this server's operator", param="voice", code="forbidden")
        await library.remove(name, caller.tenant)
        return JSONResponse({"id": name, "object": "audio.voice", "deleted": True})


def _forbidden() -> HttpError:
    return HttpError(403, "this key may not change voices", "permission_error", code="forbidden")


async def _form(request: Request) -> FormData:
    """Return the form in the body.

    Raises:
        InvalidArgument: it is not a form of `multipart/form-data`.
        TooLarge: it is too large.
    """
    raw = await read_body(request, MAX_FORM)

    async def slices() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(raw), _SLICE):
            yield raw[start : start + _SLICE]
            await asyncio.sleep(0)
        yield b""

    parser = MultiPartParser(request.headers, slices(), max_files=1, max_fields=16, max_part_size=2**16)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise InvalidArgument(None, f"the body must be a form: {error.message}") from None
    except (KeyError, ValueError, UnicodeError):  # no boundary; a name or an encoding that cannot be read
        raise InvalidArgument(None, "the body must be a form with a boundary and names in UTF-8") from None


def _field(form: FormData, name: str) -> str:
    value = form.get(name)
    if value is None:
        raise InvalidArgument(name, "is required, it was left out")
    if not isinstance(value, str):
        raise InvalidArgument(name, "must be text, got a file")
    return value


async def _clip(form: FormData) -> bytes:
    """Return the contents of the clip. Its file name and its type are not used: the contents decide."""
    value = form.get("audio_sample")
    if not isinstance(value, UploadFile):
        raise InvalidArgument("audio_sample", "is required, it was left out" if value is None else "must be a file")
    clip = await value.read()
    if len(clip) > MAX_CLIP:
        raise InvalidArgument("audio_sample", f"must be at most {MAX_CLIP} bytes, got {len(clip)}")
    return clip
