"""The conversation of one WebSocket: its utterances, one after the other, and what the listener has heard."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from misotts_client.contract import SAMPLE_RATE
from misotts_client.errors import InvalidArgument, MisoError
from misotts_client.request import SpeechRequest
from misotts_gateway.callers import Caller
from misotts_gateway.http.service import Service
from misotts_gateway.sockets.limits import HOLD_S, MAX_ACTIONS
from misotts_gateway.text.times import SpeakingRate
from misotts_gateway.turn import Sound, own_session, utterance

RESTART, STALLED = 1012, 1008
"""Codes with which a socket is closed that drains, and one whose caller takes nothing."""


class Closing(Exception):  # noqa: N818 (it is no error)
    """The socket is to be closed, with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


class Speaker(ABC):
    """What a conversation needs of a turn.

    Attributes:
        request: voice and parameters of its utterances; its text is not used.
        over: True when nothing more comes of it.
        begun: True once an utterance of it was sent to the model.
    """

    def __init__(self, request: SpeechRequest) -> None:
        self.request = request
        self.over = False
        self.begun = False

    @abstractmethod
    def begin(self, text: str, rate_s: float) -> None:
        """An utterance begins; `rate_s` is the expected time of a letter."""

    @abstractmethod
    async def sound(self, sound: Sound) -> None:
        """Send audio of the utterance. The next piece comes when this one has been written."""

    @abstractmethod
    async def end(self) -> None:
        """The utterance has ended."""

    @abstractmethod
    async def failed(self, error: MisoError) -> None:
        """The turn cannot go on; nothing of it is left in the conversation."""


@dataclass(eq=False, frozen=True)
class _Item:
    """What waits: an utterance, or an action at its place among them."""

    turn: Speaker
    text: str = ""
    action: Callable[[], Awaitable[None]] | None = None


class Playback:
    """What a listener has heard of the last utterance, if all audio is played as soon as it has come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._free_at = self._sent_s = 0.0

    def begin(self) -> None:
        """The next audio is another utterance's."""
        self._began, self._sent_s = max(self._clock(), self._free_at), 0.0

    def sent(self, audio_s: float) -> None:
        """Take note of audio that was sent."""
        self._sent_s += audio_s
        self._free_at = max(self._clock(), self._free_at) + audio_s

    def interrupt(self) -> int | None:
        """Return the ms of the last utterance that were heard until now; None if there is none, or all of it was."""
        heard_s = max(self._clock() - self._began, 0.0)
        self._free_at = 0.0
        return int(heard_s * 1000) if heard_s < self._sent_s else None


class Conversation:
    """Speaks what turns ask for, in the order in which they ask, as one conversation of the server."""

    def __init__(self, service: Service, caller: Caller, name: str | None = None) -> None:
        """`name`: of the conversation; None: one of its own."""
        self._service, self._caller = service, caller
        self._name = name or own_session()
        self._is_own = name is None
        self._queue: deque[_Item] = deque()
        self._characters = 0
        self._come = asyncio.Event()
        self._doing: tuple[_Item, asyncio.Task[None]] | None = None
        self._cancelled = False
        self._serving: Speaker | None = None
        self._last: Speaker | None = None
        self._heard_ms: int | None = None
        self._playback = Playback()
        self._rate = SpeakingRate()
        self._is_known = False
        """True once the server may know the conversation."""
        self.quiet_since = time.monotonic()
        """When the last thing was sent, or asked for."""

    @property
    def busy(self) -> bool:
        """True while something is said, or waits."""
        return bool(self._queue or self._doing)

    def has(self, turn: Speaker) -> bool:
        """True if something of a turn is said, or waits."""
        return any(item.turn is turn for item in self._queue) or bool(self._doing and self._doing[0].turn is turn)

    def check(self, characters: int) -> None:
        """Raises InvalidArgument if there is no place for more text."""
        most = self._service.text.max_input
        if self._characters + characters > most:
            raise InvalidArgument(None, f"a socket may have {most} characters that wait, got {characters} more")
        if len(self._queue) >= MAX_ACTIONS:
            raise InvalidArgument(None, f"a socket may have {MAX_ACTIONS} utterances and marks that wait, got more")

    def say(self, turn: Speaker, text: str) -> None:
        """Speak an utterance when all that came before it has been spoken."""
        self._characters += len(text)
        self._put(_Item(turn, text=text))

    def then(self, turn: Speaker, action: Callable[[], Awaitable[None]]) -> None:
        """Do something when all that came before it has been spoken. What ends a turn sets its `over`."""
        self._put(_Item(turn, action=action))

    async def cancel(self, turn: Speaker | None = None) -> None:
        """Drop what waits of a turn and stop what is said; None: of all turns. When this returns, nothing more is sent
        of it."""
        for item in self._queue:
            item.turn.over = item.turn.over or turn in (None, item.turn)
        self._queue = deque(item for item in self._queue if turn not in (None, item.turn))
        self._characters = sum(len(item.text) for item in self._queue)
        if self._doing and turn in (None, self._doing[0].turn):
            item, task = self._doing
            item.turn.over = self._cancelled = True
            task.cancel()
            await asyncio.wait({task})
        if self._last is not None and turn in (None, self._last):
            heard_ms = self._playback.interrupt()
            self._heard_ms = self._heard_ms if heard_ms is None else heard_ms
            self._last = None
        if left := turn or self._serving:
            left.over = True
        self._come.set()

    async def run(self) -> None:
        """Speak until the task is cancelled.

        Raises:
            Closing: the socket must not go on.
        """
        try:
            while True:
                await self._more(None, None)
                with self._service.answering():
                    await self._serve(self._queue[0].turn)
                if self._service.core.draining and not self._queue:
                    raise Closing(RESTART, "the server is shutting down")
        finally:
            if self._is_own and self._is_known:
                self._service.core.forget(self._name, self._caller)

    async def _serve(self, turn: Speaker) -> None:
        """Do what comes of one turn, until another's comes or nothing has come for `HOLD_S`."""
        try:
            while self._queue and self._queue[0].turn is turn and self._queue[0].action:
                await self._do(self._queue.popleft())
            if self._queue and self._queue[0].turn is turn:
                with self._service.core.admit(self._caller, text=self._queue[0].text):
                    self._serving = turn
                    while await self._more(turn, HOLD_S):
                        await self._do(self._queue.popleft())
        except MisoError as error:
            await self.cancel(turn)
            await turn.failed(error)
        finally:
            self._serving = None

    async def _more(self, turn: Speaker | None, timeout_s: float | None) -> bool:
        """Wait for the next item. False if it is another turn's, or none has come."""
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            self._come.set()

        # asyncio.wait_for may lose a cancellation that comes together with what it waits for.
        timer = asyncio.get_running_loop().call_later(timeout_s, expire) if timeout_s else None
        try:
            while not (self._queue or expired or (turn and turn.over)):
                self._come.clear()
                await self._come.wait()
        finally:
            if timer:
                timer.cancel()
        return bool(self._queue) and turn in (None, self._queue[0].turn)

    async def _do(self, item: _Item) -> None:
        self._characters -= len(item.text)
        self._cancelled = False
        task = asyncio.create_task(self._perform(item))
        self._doing = item, task
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():  # the socket has ended
                task.cancel()
                await asyncio.wait({task})
            self._doing = None
            self.quiet_since = time.monotonic()
        if task.cancelled() or self._cancelled:
            with suppress(asyncio.CancelledError):
                task.exception()
            if not self._cancelled:
                raise Closing(STALLED, "nothing was taken while audio waited")
            return
        task.result()

    async def _perform(self, item: _Item) -> None:
        if item.action:
            await item.action()
        else:
            await self._speak(item.turn, item.text)

    async def _speak(self, turn: Speaker, text: str) -> None:
        service = self._service
        spoken = service.text.said(text, turn.request.voice)
        request = replace(turn.request, text=spoken, session=self._name, session_heard_ms=self._heard_ms)
        first, turn.begun = not turn.begun, True
        turn.begin(text, self._rate.seconds)
        audio_s = 0.0
        async with aclosing(utterance(service.core, request, self._caller, first=first)) as sounds:
            async for sound in sounds:
                if not audio_s:
                    self._playback.begin()
                    self._last, self._heard_ms, self._is_known = turn, None, True
                piece_s = len(sound.audio) / SAMPLE_RATE
                audio_s += piece_s
                self._playback.sent(piece_s)
                await turn.sound(sound)
                self.quiet_since = time.monotonic()
        await turn.end()
        self._rate.learn(text, audio_s)

    def _put(self, item: _Item) -> None:
        self._queue.append(item)
        self.quiet_since = time.monotonic()
        self._come.set()
