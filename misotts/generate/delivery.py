"""Frames of one utterance → chunks to the next stage, and what is known of how they fared there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from misotts.config import MAX_UNACKNOWLEDGED, NO_SLOT
from misotts.generate.pace import Pace
from misotts.generate.utterance import Utterance

PROBE_AFTER_S = 0.1
"""A stream quiet for this long gets an empty chunk: its acknowledgement tells whether the caller is still there."""

PROBE_WAITING_AFTER_S = 1.0
"""The same while it waits for a slot, when it holds nothing but a place in line: of a full line, probed ten times a
second, came 500 of the 540 chunks a second that the later stages had to take."""

SILENT_AFTER_S = 30.0
"""A stream whose oldest chunk is not acknowledged for this long is dropped: a later stage has lost it."""


@dataclass(frozen=True)
class Chunk:
    """Some frames of one utterance, as they go to the decode stage."""

    stream: int
    slot: int
    """The utterance's slot; `NO_SLOT` in a probe of one that still waits."""
    index: int
    frames: list[np.ndarray]
    """int32 [codebooks] each. None in a probe and in the last chunk of what was broken off. At the end of speech the
    last frame is the one of zeros."""
    codebooks: int
    seed: int
    finish: str
    """Not empty on the last chunk."""

    @property
    def codes(self) -> np.ndarray:
        """The frames as one array, int32 [frames, codebooks], put together where it is asked for: off the loop's
        thread."""
        return np.stack(self.frames) if self.frames else np.zeros((0, self.codebooks), np.int32)


class Delivery:
    """Collects an utterance's frames and sends them in chunks. Not thread-safe: the loop's lock guards it."""

    def __init__(self, utterance: Utterance, send: Callable[[Chunk], None], codebooks: int, now: float) -> None:
        self.utterance = utterance
        self._send = send
        self._codebooks = codebooks
        self._pending: list[np.ndarray] = []
        self._chunks = 0
        self._pace = Pace(utterance.order.chunk_frames, now)
        self._unacknowledged: dict[int, float] = {}
        self._last_sent = now
        self.cancelled = self.failed = self._abandoned = False

    @property
    def started(self) -> bool:
        """Whether a chunk has been sent, so that a refusal can no longer be an ordinary error."""
        return self._chunks > 0

    @property
    def paused(self) -> bool:
        return len(self._unacknowledged) >= MAX_UNACKNOWLEDGED

    @property
    def settled(self) -> bool:
        """Whether every chunk has been acknowledged."""
        return self._abandoned or not self._unacknowledged

    def add(self, codes: np.ndarray, first_frames: int, running: int, now: float) -> None:
        """Take one frame's codes int32 [codebooks]; send a chunk when it is time: see `Pace.full`."""
        self._pending.append(codes)
        if self._pace.full(len(self._pending), first_frames, running, now):
            self._flush(now)

    def keep(self, codes: np.ndarray) -> None:
        """Take an utterance's last frame, which goes out with its `finish`: see `end`."""
        self._pending.append(codes)

    def end(self, now: float) -> None:
        """Send what is left with the utterance's `finish`."""
        self._flush(now)

    def probe(self, now: float) -> None:
        """Send an empty chunk if the stream has been quiet."""
        quiet_s = PROBE_WAITING_AFTER_S if self.utterance.slot == NO_SLOT else PROBE_AFTER_S
        if now - self._last_sent >= quiet_s and not self._unacknowledged:
            pending, self._pending = self._pending, []
            self._flush(now)
            self._pending = pending

    def acknowledge(self, index: int, cancelled: bool, failed: bool = False) -> None:
        """Chunk `index`, and with it every earlier one, has reached the end of the road."""
        for earlier in [chunk for chunk in self._unacknowledged if chunk <= index]:
            del self._unacknowledged[earlier]
        self.cancelled = self.cancelled or cancelled
        self.failed = self.failed or failed

    def abandon(self) -> None:
        """The caller has left, and nobody will acknowledge anything any more."""
        self.cancelled = self._abandoned = True

    def silent(self, now: float) -> bool:
        """Whether the oldest chunk has been waiting for its acknowledgement for too long."""
        oldest = next(iter(self._unacknowledged.values()), now)
        return now - oldest >= SILENT_AFTER_S

    def _flush(self, now: float) -> None:
        utterance, frames = self.utterance, self._pending
        self._pending = []
        index = self._chunks
        self._unacknowledged[index] = now
        self._chunks += 1
        self._last_sent = now
        self._send(
            Chunk(
                utterance.stream, utterance.slot, index, frames, self._codebooks, utterance.order.seed, utterance.finish
            )
        )
