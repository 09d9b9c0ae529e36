"""One utterance as the later stages see it: chunks of its frames, and their acknowledgements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from misotts.config import MAX_UNACKNOWLEDGED, NO_SLOT
from misotts.generate.pace import FRAME_S, Pace
from misotts.generate.utterance import Utterance
from misotts.hold_back import HoldBack
from misotts_client.errors import MisoError

UNTAKEN_FRAMES = 125
"""Frames, 10 s of audio, that may be generated and not written to the caller; the stream then pauses. It counts only
where a gateway tells what it has written."""

SILENT_AFTER_S = 30.0
"""A stream is ended if its oldest chunk is not acknowledged for this long: a later stage has lost it."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of one stream on their way to the decode stage."""

    stream: int
    slot: int
    """`NO_SLOT` in a chunk that only refuses."""
    admission: int
    """See `Utterance.admission`."""
    index: int
    frames: list[npt.NDArray[np.int32]]
    """int32 [codebooks] each. Empty in the last chunk of a stream that was broken off. At the end of speech the last
    frame is the one of zeros."""
    codebooks: int
    seed: int
    finish: str
    """Not empty in the last chunk."""
    session_turns: int = 0
    """See `Utterance.session_turns`."""

    @classmethod
    def without_frames(cls, utterance: Utterance, finish: str) -> Chunk:
        """Return the only chunk of an utterance that has got no slot."""
        order = utterance.order
        return cls(utterance.stream, NO_SLOT, 0, 0, [], order.frames.shape[1] - 1, order.seed, finish)

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """The frames as one array, int32 [frames, codebooks], which is made outside of the loop's thread."""
        return np.stack(self.frames) if self.frames else np.zeros((0, self.codebooks), np.int32)


class Receiver(Protocol):
    """Takes a stream's chunks. It is called from one thread, in order."""

    def chunk(self, chunk: Chunk) -> None: ...

    def refuse(self, error: MisoError) -> None:
        """The stream ended before its first chunk; nothing else will come."""
        ...


Send = Callable[[Receiver, Chunk | MisoError], None]


def deliver(receiver: Receiver, news: Chunk | MisoError) -> None:
    """Give a chunk or a refusal to its receiver: the simplest `Send`."""
    if isinstance(news, Chunk):
        receiver.chunk(news)
    else:
        receiver.refuse(news)


class Stream:
    """Collects an utterance's frames and sends them in chunks."""

    def __init__(self, utterance: Utterance, receiver: Receiver, send: Send, hold_back: HoldBack, now: float) -> None:
        self.utterance, self.receiver, self.submitted = utterance, receiver, now
        self.finish = ""
        """The FINISH with which the stream has ended; empty before."""
        self.cancelled = self.failed = self.abandoned = False
        self.pace = Pace(utterance.order.chunk_frames, hold_back, now)
        self._send = send
        self._written = 0
        self._pending: list[npt.NDArray[np.int32]] = []
        self._chunks = 0
        self._unacknowledged: dict[int, tuple[float, int]] = {}
        """Time at which each chunk without an acknowledgement was sent, and the number of its frames, oldest first."""

    @property
    def started(self) -> bool:
        """True if a chunk has been sent, so that an error can no longer be an ordinary one."""
        return self._chunks > 0

    @property
    def held(self) -> bool:
        """True if no frames should be generated until chunks are acknowledged or written to the caller."""
        untaken = self.utterance.sampled - self._written if self.utterance.order.ticket else 0
        return self.behind or untaken >= UNTAKEN_FRAMES

    @property
    def behind(self) -> bool:
        """True if the later stages have as many of its chunks as they may."""
        return len(self._unacknowledged) >= MAX_UNACKNOWLEDGED

    @property
    def ending(self) -> bool:
        """True if the stream has ended, or is to end."""
        return bool(self.finish) or self.cancelled or self.failed

    @property
    def delivered(self) -> int:
        """Number of frames that the caller has got: those that the gateway has written, or without one all that have
        been sent."""
        return self._written if self.utterance.order.ticket else len(self.utterance.frames) - len(self._pending)

    @property
    def settled(self) -> bool:
        """True if no acknowledgement is missing."""
        return self.abandoned or not self._unacknowledged

    @property
    def under_way(self) -> int:
        """Number of frames that have been sent and have not left the last stage."""
        return sum(frames for _, frames in self._unacknowledged.values())

    @property
    def progress(self) -> tuple[int, int, int]:
        """The number of its frames, the most that it may have, and the number of those under way. One that has ended
        has its slot until the later stages are done with it."""
        frames = len(self.utterance.frames)
        return frames, frames if self.finish else self.utterance.order.max_frames, self.under_way

    def arrived_s(self, now: float) -> float:
        """Return the audio, in s, that has left the last stage and that the caller has not played; below 0 if it has
        run out."""
        return self.pace.left_s(now) - self.under_way * FRAME_S

    def silent(self, now: float) -> bool:
        """True if the oldest chunk has waited too long for its acknowledgement."""
        oldest, _ = next(iter(self._unacknowledged.values()), (now, 0))
        return now - oldest >= SILENT_AFTER_S

    def add(
        self,
        codes: npt.NDArray[np.int32],
        running: int,
        delay_s: float,
        now: float,
        first: int = 1,
        slow: bool = False,
    ) -> None:
        """Add a frame's codes int32 [codebooks]; send a chunk when it is time: see `Pace.full`."""
        self._pending.append(codes)
        if self.pace.full(len(self._pending), running, delay_s, now, first, slow):
            self._flush(now)

    def end(self, finish: str, now: float, last: npt.NDArray[np.int32] | None = None) -> None:
        """Send everything that is left, and the frame `last`, with the reason of the end."""
        if last is not None:
            self._pending.append(last)
        self.finish = finish
        self._flush(now)

    def acknowledge(self, index: int, failed: bool) -> list[tuple[float, int]]:
        """Record that chunk `index`, and with it every earlier one, has left the last stage; return the times at which
        they were sent and the numbers of their frames."""
        self.failed |= failed
        return [self._unacknowledged.pop(chunk) for chunk in list(self._unacknowledged) if chunk <= index]

    def take(self, frames: int) -> None:
        """Record that the gateway has written `frames` frames to the caller, in all."""
        self._written = max(self._written, frames)

    def _flush(self, now: float) -> None:
        utterance, order, frames = self.utterance, self.utterance.order, self._pending
        index, codebooks = self._chunks, order.frames.shape[1] - 1
        self._pending = []
        self._unacknowledged[index] = now, len(frames)
        self._chunks += 1
        place = (utterance.stream, utterance.slot, utterance.admission, index)
        told = order.seed, self.finish, utterance.session_turns
        self._send(self.receiver, Chunk(*place, frames, codebooks, *told))
