"""A turn: utterances and silences in order, spoken by one private call each, as one stream of audio or of bytes."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from misotts_client.contract import FRAME_MS, LONGEST_DEFAULT_MS, SAMPLE_RATE, check_request
from misotts_client.errors import Unavailable
from misotts_client.request import SpeechRequest
from misotts_client.transport import ChunkReader
from misotts_gateway.audio.formats import Format, StreamEncoder
from misotts_gateway.audio.pcm import Audio
from misotts_gateway.callers import Caller
from misotts_gateway.core import Core
from misotts_gateway.request import Asked
from misotts_gateway.text.ssml import Silence

_SEEDS = 2**64
_PATIENCE_S = 10.0
"""Time in which a later utterance of a turn may find a place: about what its caller has left to hear."""
_SLICE_S = 1
"""Longest piece of silence that is made at once."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Turn:
    """What to speak.

    Attributes:
        parts: utterances and silences, in order; at least one utterance.
        request: voice and parameters of every utterance; its text is not used.
        max_audio_ms: longest audio of the turn; None: as long as it takes.
    """

    parts: Sequence[str | Silence]
    request: SpeechRequest
    max_audio_ms: int | None = None

    @property
    def utterances(self) -> int:
        """Number of utterances."""
        return sum(isinstance(part, str) for part in self.parts)


@dataclass(frozen=True)
class Sound:
    """A piece of the audio of a turn.

    Attributes:
        audio: [samples] float32, 24 kHz mono, -1..1.
        seed: of the utterance to which it belongs.
        last: True if the utterance ends with it; an utterance may also end after its last piece.
        utterance: its number in the turn, from 0.
    """

    audio: Audio
    seed: int
    last: bool = False
    utterance: int = 0


async def sounds(core: Core, turn: Turn, caller: Caller) -> AsyncGenerator[Sound]:
    """Yield the audio of a turn as it comes. The first piece is speech, or the silence before it once speech has come.

    One utterance after the other is sent to the private side: the next one when the caller has taken the last piece of
    the one before. Several of them are one conversation, which the server forgets at the end if the request names none.
    Ask for the next piece only when the last one has been written. Closing the iterator, or cancelling the task that
    iterates, cancels the utterance.

    Raises:
        MisoError: an utterance was refused, or ended early.
    """
    most = math.inf if turn.max_audio_ms is None else turn.max_audio_ms * SAMPLE_RATE // 1000
    own = own_session() if turn.request.session is None and turn.utterances > 1 else None
    if own:
        turn = replace(turn, request=replace(turn.request, session=own))
    text = "".join(part for part in turn.parts if isinstance(part, str))
    with core.admit(caller, turn.request.lead_ms, text):
        try:
            async with aclosing(_spoken(core, turn, caller)) as pieces:
                async for piece in pieces:
                    if len(piece.audio) >= most:
                        yield replace(piece, audio=piece.audio[: int(most)], last=True)
                        return
                    most -= len(piece.audio)
                    yield piece
        finally:
            if own:
                core.forget(own, caller)


def own_session() -> str:
    """Return the name of a conversation that no caller has named."""
    return f"own-{secrets.token_hex(16)}"


async def _spoken(core: Core, turn: Turn, caller: Caller) -> AsyncGenerator[Sound]:
    seed, left_ms = turn.request.seed, turn.max_audio_ms
    spoken = silence_ms = 0
    for part in turn.parts:
        if isinstance(part, Silence):
            silence_ms += part.ms
            left_ms = None if left_ms is None else left_ms - part.ms
            continue
        if left_ms is not None and left_ms < FRAME_MS:
            break
        request = replace(
            turn.request,
            text=part,
            seed=None if seed is None else _signed(seed + spoken),
            # The server's own limit for the text is below this default, and fits beside any voice.
            max_audio_ms=None if left_ms is None or left_ms >= LONGEST_DEFAULT_MS else left_ms,
        )
        async with aclosing(utterance(core, request, caller, first=spoken == 0)) as pieces:
            async for piece in pieces:
                seed = piece.seed if seed is None else seed  # the server has drawn it for the first utterance
                for audio in _silence(silence_ms):
                    yield Sound(audio, piece.seed)
                    core.took_silence()
                silence_ms = 0
                left_ms = None if left_ms is None else left_ms - len(piece.audio) * 1000 // SAMPLE_RATE
                yield replace(piece, utterance=spoken)
        spoken += 1
    for audio in _silence(silence_ms):
        yield Sound(audio, seed or 0)


async def utterance(core: Core, request: SpeechRequest, caller: Caller, *, first: bool) -> AsyncGenerator[Sound]:
    """Yield the audio of an utterance, inside of `Core.admit`. One in the middle of a turn, which the caller still
    listens to, is sent again when the server has no place for it.

    Args:
        first: True for the first utterance of a turn.

    Raises:
        MisoError: it was refused, or ended early.
    """
    check_request(request, core.model.audio_codes)
    began, heard = time.monotonic(), False
    while True:
        reader = ChunkReader()
        try:
            async with aclosing(core.speak(Asked(request), caller, admitted=True)) as pieces:
                async for piece in pieces:
                    chunk = reader.read(piece.message)
                    if chunk is not None and len(chunk.audio):
                        heard = True
                        yield Sound(chunk.audio, chunk.seed, bool(chunk.finish))
            reader.end()
            return
        except Unavailable as error:
            wait_s = error.retry_after_s
            if first or heard or wait_s is None or time.monotonic() - began + wait_s > _PATIENCE_S:
                raise
            await asyncio.sleep(wait_s)


def _silence(ms: int) -> Iterator[Audio]:
    samples = ms * SAMPLE_RATE // 1000
    for start in range(0, samples, _SLICE_S * SAMPLE_RATE):
        yield np.zeros(min(_SLICE_S * SAMPLE_RATE, samples - start), np.float32)


def _signed(seed: int) -> int:
    """Return a number as an int64: the seed after the largest is the smallest."""
    return (seed + _SEEDS // 2) % _SEEDS - _SEEDS // 2


async def encoded(pieces: AsyncGenerator[Sound], encoding: Encoding) -> AsyncGenerator[bytes]:
    """Yield a turn as one encoded stream. The first item may be empty: it says that speech has begun."""
    async with aclosing(pieces):
        async for piece in pieces:
            yield await encoding.encode(piece.audio)
    yield await encoding.finish()


class Encoding:
    """Encodes the pieces of one turn; formats that take time are encoded in a thread.

    Args:
        format: what to make.
        rate: Hz; one of the format's.
        threads: where to encode.
    """

    def __init__(self, format: Format, rate: int, threads: Executor) -> None:
        self._format, self._rate = format, rate
        self._threads = None if format.cheap else threads

    async def encode(self, audio: Audio) -> bytes:
        """See `StreamEncoder.encode`."""
        return await in_thread(self._threads, lambda: self._encoder.encode(audio))

    async def finish(self) -> bytes:
        """See `StreamEncoder.finish`."""
        return await in_thread(self._threads, lambda: self._encoder.finish())

    @cached_property
    def _encoder(self) -> StreamEncoder:
        """The encoder, which is made where it works: a codec's first one loads its library."""
        return StreamEncoder(self._format, self._rate)


async def in_thread(threads: Executor | None, action: Callable[[], Result]) -> Result:
    """Return the result of a function that runs in one of `threads`; None: at once, for what takes less than 1 ms."""
    return action() if threads is None else await asyncio.get_running_loop().run_in_executor(threads, action)
