"""A turn on a WebSocket: text that comes piece by piece, one encoded stream of audio, estimated times."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import MutableMapping, Sequence
from typing import TypeVar

from misotts_client.contract import SAMPLE_RATE
from misotts_client.errors import InvalidArgument
from misotts_client.request import SpeechRequest
from misotts_gateway.audio.formats import Format
from misotts_gateway.http.service import Service
from misotts_gateway.sockets.conversation import Conversation, Speaker
from misotts_gateway.sockets.limits import MAX_TURNS, SLICE_SAMPLES
from misotts_gateway.text.incremental import SentenceBuffer
from misotts_gateway.text.times import EstimatedTimes, Spans, Timed
from misotts_gateway.turn import Encoding, Sound, in_thread

SHORT_TEXT = 1_024
"""Characters up to which text is divided where it came in."""

Turn = TypeVar("Turn", bound="SocketTurn")


class SocketTurn(Speaker):
    """One turn.

    Args:
        format, rate: of the audio.
        spans: finds the pieces of an utterance whose times are wanted: `words`, `characters`; None: no times.
        delay_s: text is spoken this long after it has come; None: it waits for the end of its sentence.

    Attributes:
        audio_s: seconds of audio up to now.
        closing: True once the caller has closed it, so that it ends when all has been said.
    """

    def __init__(
        self,
        service: Service,
        conversation: Conversation,
        request: SpeechRequest,
        format: Format,
        rate: int,
        spans: Spans | None = None,
        delay_s: float | None = None,
    ) -> None:
        super().__init__(request)
        self.conversation = conversation
        self.audio_s = 0.0
        self.closing = False
        self._service, self._format, self._rate, self._spans = service, format, rate, spans
        self._buffer = SentenceBuffer()
        self._delay_s = delay_s
        self._timer: asyncio.TimerHandle | None = None
        self._encoding = Encoding(format, rate, service.threads)
        self._times: EstimatedTimes | None = None
        self._began_s = 0.0
        """`audio_s` at the beginning of the utterance."""

    @abstractmethod
    async def send_audio(self, raw: bytes, times: Sequence[Timed], began_s: float) -> None:
        """Send encoded audio, which may be empty, and the times in it.

        Args:
            times: from the beginning of the turn, in s.
            began_s: where the audio begins, likewise.
        """

    @property
    def idle(self) -> bool:
        """True if there is nothing left to say."""
        return not self._buffer.is_speakable and not self.conversation.has(self)

    async def add(self, text: str, complete: bool = False) -> None:
        """Take text, and speak the sentences that are complete; with `complete`, all of it.

        Raises:
            InvalidArgument: too much waits.
        """
        self.conversation.check(len(text))
        threads = self._service.threads if len(text) > SHORT_TEXT else None
        if threads:
            self._stop_timer()  # its flush would take text from the buffer while the thread divides it
        for ready in await in_thread(threads, lambda: self._buffer.add(text)):
            self.conversation.say(self, ready)
            self._stop_timer()
        if complete:
            self.flush()
        elif self._delay_s is not None and self._timer is None and self._buffer.is_speakable:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self.flush)

    def flush(self) -> None:
        """Speak what waits for the end of its sentence."""
        self._stop_timer()
        for ready in self._buffer.flush():
            self.conversation.say(self, ready)

    async def cancel(self) -> None:
        """Say nothing more; when this returns, nothing more is sent."""
        self.forget()
        await self.conversation.cancel(self)

    def forget(self) -> None:
        """Forget the text that waits for the end of its sentence."""
        self._stop_timer()
        self._buffer = SentenceBuffer()

    async def finish_audio(self) -> None:
        """Send what the encoder holds; the next audio is another stream."""
        raw = await self._encoding.finish() if self.audio_s else b""
        self._encoding = Encoding(self._format, self._rate, self._service.threads)
        if raw:
            await self.send_audio(raw, (), self.audio_s)

    def begin(self, text: str, rate_s: float) -> None:
        self._began_s = self.audio_s
        self._times = EstimatedTimes(text, self._spans(text), rate_s) if self._spans else None

    async def sound(self, sound: Sound) -> None:
        count = len(sound.audio)
        for start in range(0, count, SLICE_SAMPLES):
            audio = sound.audio[start : start + SLICE_SAMPLES]
            began_s, self.audio_s = self.audio_s, self.audio_s + len(audio) / SAMPLE_RATE
            raw = await self._encoding.encode(audio)
            times = self._until_now(sound.last and start + SLICE_SAMPLES >= count)
            if raw or times:
                await self.send_audio(raw, times, began_s)

    async def end(self) -> None:
        if times := self._until_now(last=True):
            await self.send_audio(b"", times, self.audio_s)
        self._times = None

    def _until_now(self, last: bool) -> list[Timed]:
        if self._times is None:
            return []
        given = self._times.until(self.audio_s - self._began_s, last)
        return [each.moved(self._began_s) for each in given]

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def make_place(turns: MutableMapping[str, Turn]) -> None:
    """Make place for another open turn: those with nothing left to say are forgotten first, the oldest before others.

    Raises:
        InvalidArgument: too many have something to say.
    """
    for id in [id for id, turn in turns.items() if not turn.closing and turn.idle]:
        if sum(not turn.closing for turn in turns.values()) < MAX_TURNS:
            return
        turns.pop(id).over = True
    if sum(not turn.closing for turn in turns.values()) >= MAX_TURNS:
        raise InvalidArgument("context_id", f"a socket may have {MAX_TURNS} contexts that speak, got another one")
