"""What the vendors' HTTP protocols share: a text in a JSON body becomes a turn, and its audio comes with times."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from misotts_client.contract import SAMPLE_RATE
from misotts_client.errors import InvalidArgument
from misotts_client.request import SpeechRequest
from misotts_gateway.audio.formats import Format
from misotts_gateway.http.request import check_content_type, read_body, session_name
from misotts_gateway.http.service import Service
from misotts_gateway.json_fields import Fields, read_json
from misotts_gateway.text.incremental import whole_text
from misotts_gateway.text.times import EstimatedTimes, Spans, SpeakingRate, Timed
from misotts_gateway.turn import Encoding, Turn, in_thread, sounds

PIECE_BYTES = 36_000
"""Bytes of audio of a line or an event, 48,000 in base64: clients read lines of up to 64 KiB. What is larger is
divided."""
SHORT_BODY = 4_096
"""Bytes up to which a body is read, and its text divided, where the request came in: a thread would cost more."""


@dataclass(frozen=True)
class TimedAudio:
    """Encoded audio, which may be empty, and the estimated times in it, in s from the beginning of the turn."""

    raw: bytes
    times: Sequence[Timed]

    @property
    def base64(self) -> str:
        return base64.b64encode(self.raw).decode()


class SpokenText:
    """A text to speak, checked.

    Args:
        text: the text.
        voice: as the caller names it; None: the model's own.
        field: names the text in errors.
        sampling: further fields of the request to the model.

    Raises:
        InvalidArgument: the text is too long, or has nothing to speak.
        NotFound: there is no such voice.
    """

    def __init__(
        self, service: Service, request: Request, text: str, voice: str | None, field: str, **sampling: Any
    ) -> None:
        most, caller = service.text.max_input, request.state.caller
        if len(text) > most:
            raise InvalidArgument(field, f"must be at most {most} code points, got {len(text)}")
        self._utterances = whole_text(text)
        if not self._utterances:
            raise InvalidArgument(field, "must have a letter or a digit, it has none")
        chosen = service.voices.resolve(voice, caller.tenant)
        asked = SpeechRequest("", voice=chosen.voice, speaker=chosen.speaker, **sampling)
        parts = [service.text.said(utterance, chosen.voice) for utterance in self._utterances]
        self._turn, self._service, self._caller = Turn(parts, asked), service, caller

    async def raw(self, format: Format, rate: int) -> AsyncGenerator[bytes]:
        """Yield one encoded stream, whose first piece may be empty."""
        async with aclosing(self.audio(format, rate)) as pieces:
            async for piece in pieces:
                yield piece.raw

    async def audio(self, format: Format, rate: int, spans: Spans | None = None) -> AsyncGenerator[TimedAudio]:
        """Yield one encoded stream. The first piece says that speech has begun, and may be empty.

        Args:
            spans: finds the pieces of an utterance whose times are wanted; None: no times.
        """
        encoding = Encoding(format, rate, self._service.threads)
        clock = _Clock(self._utterances, spans)
        async with aclosing(sounds(self._service.core, self._turn, self._caller)) as pieces:
            async for piece in pieces:
                times = clock.heard(piece.utterance, len(piece.audio) / SAMPLE_RATE, piece.last)
                for given in _slices(await encoding.encode(piece.audio), times):
                    yield given
        for given in _slices(await encoding.finish(), clock.rest()):
            yield given


async def read_fields(request: Request, service: Service) -> Fields:
    """Return the fields of a JSON body.

    Raises:
        WrongType, TooLarge, MisoError: it has another form.
    """
    check_content_type(request, "application/json")
    raw = await read_body(request, service.max_body)
    return Fields(await in_thread(service.threads if len(raw) > SHORT_BODY else None, lambda: read_json(raw)))


async def spoken_text(
    service: Service, request: Request, text: str, voice: str | None, field: str, **sampling: Any
) -> SpokenText:
    """Return a `SpokenText` of a request; a long text is divided in a thread."""
    sampling = {"session": session_name(request), **sampling}
    threads = service.threads if len(text) > SHORT_BODY else None
    return await in_thread(threads, lambda: SpokenText(service, request, text, voice, field, **sampling))


class _Clock:
    """The times of a turn's utterances."""

    def __init__(self, texts: Sequence[str], spans: Spans | None) -> None:
        self._texts, self._spans = texts, spans
        self._current = -1
        self._times: EstimatedTimes | None = None
        self._rate = SpeakingRate()
        self._began_s = self._audio_s = 0.0

    def heard(self, utterance: int, audio_s: float, last: bool) -> list[Timed]:
        """Return the pieces that begin in the next `audio_s` seconds, which are utterance `utterance`'s."""
        if self._spans is None:
            return []
        left = []
        if utterance != self._current:
            left = self.rest()
            text, self._current, self._began_s = self._texts[utterance], utterance, self._audio_s
            self._times = EstimatedTimes(text, self._spans(text), self._rate.seconds)
        self._audio_s += audio_s
        return left + self._until(last)

    def rest(self) -> list[Timed]:
        """Return the pieces of the last utterance that are left: its audio has ended."""
        if self._times is None:
            return []
        self._rate.learn(self._texts[self._current], self._audio_s - self._began_s)
        return self._until(last=True)

    def _until(self, last: bool) -> list[Timed]:
        assert self._times is not None
        given = self._times.until(self._audio_s - self._began_s, last)
        return [each.moved(self._began_s) for each in given]


def _slices(raw: bytes, times: Sequence[Timed]) -> list[TimedAudio]:
    """Return audio in pieces that clients can read; the times stand in the first of them."""
    pieces = [raw[start : start + PIECE_BYTES] for start in range(0, len(raw), PIECE_BYTES)] or [b""]
    return [TimedAudio(piece, () if index else times) for index, piece in enumerate(pieces)]
