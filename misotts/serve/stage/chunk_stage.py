"""The base of `decode` and `watermark`: each request is one chunk of a stream, answered by one chunk or by nothing."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from misotts.config import MAX_UNACKNOWLEDGED, NO_SEAT
from misotts.serve.stage.stage import Stage, log
from misotts.serve.stage.tensors import array, strings
from misotts.serve.stage.worker import Worker
from misotts_client.errors import Internal, Unavailable, finish_of


@dataclass(frozen=True)
class Piece:
    """A chunk of a stream as it reaches a stage."""

    sender: Any
    header: np.ndarray
    """int64 [4], handed on as it is: stream, slot, index, seed."""
    data: np.ndarray
    finish: str

    @property
    def stream(self) -> int:
        return int(self.header[0])

    @property
    def slot(self) -> int:
        return int(self.header[1])

    @property
    def index(self) -> int:
        return int(self.header[2])

    @property
    def seed(self) -> np.ndarray:
        return self.header[3:]


class ChunkStage(Stage):
    """Works on chunks in batches over slots."""

    input: str
    """Name of the tensor that holds a chunk's data."""

    def process(self, pieces: Sequence[Piece], first: Sequence[bool]) -> Iterator[tuple[int, np.ndarray]]:
        """Work on one batch, at most one chunk of a stream, and yield each chunk's number and result when it is done;
        `first` says where a stream starts."""
        raise NotImplementedError

    def answer(self, piece: Piece, data: np.ndarray, finish: str) -> None:
        """Send one chunk on; `data` may be empty."""
        raise NotImplementedError

    def idle(self) -> None:
        """Runs now and then while no chunk comes."""

    def start_worker(self) -> None:
        """To be called at the end of `load`."""
        self._stream_of = [0] * self.settings.max_streams
        self._chunks = 0
        limit = 2 * MAX_UNACKNOWLEDGED * self.settings.max_streams + 1024
        self._worker = Worker(self._process, lambda piece: piece.stream, limit, self.idle)

    def take(self, request: Any, sender: Any) -> None:
        header, data, finish = array(request, "HEADER"), array(request, self.input), strings(request, "FINISH")
        if header is None or data is None or not finish:
            raise Internal(f"the {self.name} stage lacks a tensor that the ensemble gives")
        try:
            # Copies: Triton takes the request's memory back when `execute` returns.
            self._worker.put(Piece(sender, header.copy(), data.copy(), finish[0]))
        except queue.Full:
            raise Unavailable(f"the {self.name} stage has too much to do") from None

    def idle_s(self) -> float:
        return time.monotonic() - self._worker.last_sign

    def report(self) -> dict[str, float]:
        return {"busy_seconds_total": self._worker.busy_s, "chunks_total": self._chunks}

    def _process(self, pieces: list[Piece]) -> None:
        self._chunks += len(pieces)
        for piece in pieces:
            if not self.has_slot(piece):
                self._answer(piece, piece.data[:0], piece.finish)
        seated = [piece for piece in pieces if self.has_slot(piece)]
        first = [self._stream_of[piece.slot] != piece.stream for piece in seated]
        for piece in seated:
            self._stream_of[piece.slot] = piece.stream
        done = set()
        try:
            for number, data in self.process(seated, first) if seated else ():
                done.add(number)
                self._answer(seated[number], data, seated[number].finish)
        except Exception:
            log.exception("a batch of %d chunks failed", len(seated))
            for piece in (piece for number, piece in enumerate(seated) if number not in done):
                self._answer(piece, np.zeros(0, np.float32), finish_of(Internal(f"the {self.name} stage failed")))
            self.check_device()

    def _answer(self, piece: Piece, data: np.ndarray, finish: str) -> None:
        try:
            self.answer(piece, data, finish)
        except Exception:  # one caller's trouble is not the others'
            log.exception("an answer failed")

    def has_slot(self, piece: Piece) -> bool:
        """Whether there is something to work on: not in a probe of an utterance that has no seat yet, nor in what comes
        late from a stream that generate has given up, whose slot is another's now."""
        return piece.slot != NO_SEAT and piece.stream >= self._stream_of[piece.slot]
