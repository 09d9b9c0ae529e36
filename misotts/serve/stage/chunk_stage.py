"""The base of `decode` and `watermark`: each request carries one chunk of a stream and gets at most one in answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from misotts.config import MAX_UNACKNOWLEDGED, NO_SLOT
from misotts.serve.stage.header import Header
from misotts.serve.stage.stage import Stage, log
from misotts.serve.stage.tensors import array
from misotts.serve.stage.worker import Worker
from misotts.slots import Piece
from misotts_client.errors import Internal, Unavailable, finish_of

Audio = npt.NDArray[np.float32]
Process = Callable[[Sequence[Piece[Any]]], Iterator[tuple[int, Audio]]]
"""Works on pieces of different slots and yields each piece's number and audio once it is done."""


@dataclass(frozen=True)
class Chunk:
    """A chunk of a stream as it reaches a stage."""

    sender: Any
    header: Header
    data: npt.NDArray[Any]
    arrived: float
    """`time.monotonic()` seconds."""


@dataclass(frozen=True)
class Answer:
    """What the stage has made of a chunk."""

    chunk: Chunk
    piece: Piece[Any] | None
    """None if the chunk's stream has no slot."""
    audio: Audio
    """May be empty."""
    finish: str


class ChunkStage(Stage):
    """Works on chunks in batches over slots.

    A thread of its own sends the answers: Triton's `send` returns only when the server has taken the response, and the
    next batch does not wait for that.
    """

    input: str
    """Name of the tensor that holds a chunk's data."""

    def send_answer(self, answer: Answer) -> None:
        """Send an answer. The sending thread alone calls this, in the order in which the chunks were finished."""
        raise NotImplementedError

    def idle(self) -> None:
        """Called by the sending thread now and then while it has nothing to send."""

    def start_worker(self, process: Process) -> None:
        """Begin to accept chunks, at the end of `load`."""
        self._process = process
        self._admission_to = [0] * self.settings.max_streams
        self._chunks = 0
        self._limit = 2 * MAX_UNACKNOWLEDGED * self.settings.max_streams + 1024
        # Each answer is a key of its own, so that a batch has all of them in order.
        self._sender = Worker(self._send, id, self._limit, self.idle, name="sender")
        self._worker = Worker(self._work, lambda chunk: chunk.header.stream, self._limit)

    def take(self, request: Any, sender: Any) -> None:
        header, data = array(request, "HEADER"), array(request, self.input)
        if header is None or data is None:
            raise Internal(f"the {self.name} stage lacks a tensor that the ensemble gives")
        if self._worker.unfinished + self._sender.unfinished >= self._limit:  # so no answer finds its queue full
            raise Unavailable(f"the queue of the {self.name} stage is full")
        # A copy: Triton reuses the request's memory once `execute` has returned.
        self._worker.put(Chunk(sender, Header.unpack(header), data.copy(), time.monotonic()))

    def progress(self) -> float:
        return min(self._worker.last_progress, self._sender.last_progress)

    def metrics(self) -> dict[str, Any]:
        return {
            "busy_seconds_total": self._worker.busy_s,
            "sending_seconds_total": self._sender.busy_s,
            "chunks_total": self._chunks,
        }

    def _work(self, chunks: list[Chunk]) -> None:
        self._chunks += len(chunks)
        batch: list[tuple[Chunk, Piece[Any]]] = []
        for chunk in chunks:
            if piece := self._piece(chunk):
                batch.append((chunk, piece))
            else:
                self._answer(chunk, None, np.zeros(0, np.float32), chunk.header.finish)
        done = set()
        try:
            for number, audio in self._process([piece for _, piece in batch]) if batch else ():
                done.add(number)
                chunk, piece = batch[number]
                self._answer(chunk, piece, audio, chunk.header.finish)
        except Exception:
            log.exception("a batch of %d chunks failed", len(batch))
            finish = finish_of(Internal(f"the {self.name} stage failed"))
            for chunk, piece in (entry for number, entry in enumerate(batch) if number not in done):
                self._answer(chunk, piece, np.zeros(0, np.float32), finish)
            self.check_device()

    def _piece(self, chunk: Chunk) -> Piece[Any] | None:
        """Return the chunk's piece of its slot's stream, or None: a refused stream has no slot, and a late chunk's
        stream has lost its slot to a newer one."""
        slot, admission = chunk.header.slot, chunk.header.admission
        if slot == NO_SLOT or admission < self._admission_to[slot]:
            return None
        first = admission > self._admission_to[slot]
        self._admission_to[slot] = admission
        return Piece(slot, first, chunk.data, last=bool(chunk.header.finish))

    def _answer(self, chunk: Chunk, piece: Piece[Any] | None, audio: Audio, finish: str) -> None:
        if self.spans and chunk.header.index == 0:
            self.spans.send(self.name, chunk.arrived, time.monotonic(), stream=chunk.header.stream)
        self._sender.put(Answer(chunk, piece, audio, finish))

    def _send(self, answers: list[Answer]) -> None:
        for answer in answers:
            self._sender.report_progress()
            try:
                self.send_answer(answer)
            except Exception:  # the other streams go on
                log.exception("an answer failed")
