"""The generate stage without thread, clock and device: every stream from its submission to its last acknowledgement.

Each step begins with a plan and ends with its frames:

    plan      end cancelled, late and lost utterances; free the slots of streams that have their last chunk
              acknowledged; admit waiting utterances; choose each utterance's positions
    (engine)  compute the planned step
    collect   add each new frame to its stream, which sends chunks; end the utterances that are finished

A step may be planned before the one before is collected: an utterance that turns out to have ended has then sampled one
frame too many, which is dropped.

Whatever ends an utterance (end of speech, length, cancel, deadline, an error here or in a later stage, shutdown), it
leaves through `_end` or `_fail`: its blocks are free at once; its slot, when the later stages are done with it.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from misotts.engines.interface import Limits, Step
from misotts.generate.blocks import BlockPool
from misotts.generate.scheduler import QueueFullError, Scheduler, TooLongError
from misotts.generate.slot_table import SlotTable
from misotts.generate.statistics import Statistics
from misotts.generate.stream import Receiver, Send, Stream
from misotts.generate.utterance import Utterance
from misotts_client.errors import EOS, LENGTH, Cancelled, DeadlineExceeded, Internal, MisoError, Unavailable, finish_of

RETIRE_EVERY_S = 0.01
DEFAULT_RETRY_S = 1.0
RETRY_LIMITS_S = (0.1, 30.0)


class Core:
    """Not thread-safe. Times are seconds of the caller's clock."""

    def __init__(
        self,
        pool: BlockPool,
        limits: Limits,
        max_positions: int,
        send: Send,
        first_chunk_frames: int = 1,
        retire_every_s: float = RETIRE_EVERY_S,
    ) -> None:
        """`max_positions`: of the longest utterance. `send`: takes chunks and refusals, and returns at once.
        `first_chunk_frames`: frames of a stream's first chunk where the order names no size. `retire_every_s`: time
        between two looks for streams to end or to probe."""
        self.scheduler = Scheduler(pool, limits)
        self.statistics = Statistics()
        self.streams: dict[int, Stream] = {}
        """Streams that hold something: waiting, running, or not acknowledged to the end."""
        self._send, self._first_chunk_frames = send, first_chunk_frames
        self._slots = SlotTable(limits.max_streams, pool.blocks_for(max_positions))
        self._in_flight: deque[list[Utterance]] = deque()
        """Utterances that sample a frame in each step that is planned and not collected."""
        self._planned = False
        self._retire_every_s, self._retired = retire_every_s, -retire_every_s
        self._ends: deque[float] = deque(maxlen=16)
        self._closed: str | None = None

    def submit(self, utterance: Utterance, receiver: Receiver, now: float) -> None:
        """Queue an utterance; `receiver` gets its chunks.

        Raises:
            Unavailable: the stage is closed, its queue is full, or its KV pool is too small.
        """
        self.statistics.submitted += 1
        try:
            if self._closed:
                raise Unavailable(self._closed)
            self._queue(utterance)
        except Unavailable:
            self.statistics.rejected += 1
            raise
        self.streams[utterance.stream] = Stream(utterance, receiver, self._send, self._first_chunk_frames, now)

    def _queue(self, utterance: Utterance) -> None:
        try:
            self.scheduler.add(utterance)
        except QueueFullError as error:
            wait = self._retry_after_s()
            raise Unavailable(f"{error}, all places are taken; try again in {wait:.1f} s", retry_after_s=wait) from None
        except TooLongError as error:
            raise Unavailable(f"{error}; ask for a smaller MAX_AUDIO_MS or give the server more KV memory") from None

    def _retry_after_s(self) -> float:
        """Seconds until a place is likely to be free: the mean time between the last utterances' ends."""
        if len(self._ends) < 2:
            return DEFAULT_RETRY_S
        low, high = RETRY_LIMITS_S
        return min(max((self._ends[-1] - self._ends[0]) / (len(self._ends) - 1), low), high)

    def acknowledge(self, stream: int, index: int, cancelled: bool = False, failed: bool = False) -> None:
        """Record that the last stage is done with chunk `index` of `stream`. `cancelled`: it saw that the caller has
        left. `failed`: it, or a stage before it, has ended the stream with an error. A stream that is gone is no
        error."""
        if known := self.streams.get(stream):
            known.acknowledge(index, cancelled, failed)

    def abandon(self, stream: int) -> None:
        """Record that the caller of `stream` has left and will acknowledge nothing more."""
        if known := self.streams.get(stream):
            known.cancelled = known.abandoned = True

    def plan(self, now: float) -> Step | None:
        """End or probe the streams that need it, then plan the engine's next step; None if there is nothing to
        compute."""
        if now - self._retired >= self._retire_every_s:
            self._retired = now
            for stream in list(self.streams.values()):
                self._retire(stream, now)
        parts = self.scheduler.schedule({stream.utterance for stream in self.streams.values() if stream.paused})
        self._planned = bool(parts)
        if not parts:
            return None
        step = self._slots.step(parts)
        self.scheduler.advance(parts)
        self._in_flight.append([part.utterance for part in parts if part.samples])
        self.statistics.steps += 1
        self.statistics.frames += len(self._in_flight[-1])
        self.statistics.prefilled += len(step.rows)
        return step

    def due(self, ready: bool) -> bool:
        """True if the oldest step in flight should be collected before the next plan: it is `ready`, a later one is in
        flight, or the last plan was empty."""
        return ready or len(self._in_flight) > 1 or not self._planned

    def collect(self, frames: npt.NDArray[np.int32], now: float) -> None:
        """Take the frames [samples, codebooks] of the oldest step in flight."""
        running = len(self.scheduler.running)
        sampled = zip(self._in_flight.popleft(), frames, frames.any(axis=1).tolist(), strict=True)
        # The youngest first: a stream's first sound must not wait behind the next frames of the others.
        for utterance, codes, is_speech in reversed(list(sampled)):
            stream = self.streams.get(utterance.stream)
            if stream is None or stream.finish:  # it ended while this frame was computed
                continue
            if not utterance.frames:
                self.statistics.observations["first_frame_seconds"].append(now - stream.submitted)
            utterance.frames.append(codes)
            if not is_speech:  # the frame of zeros is the end of speech; the decode stage turns it into audio
                self._end(stream, EOS, now, codes)
            elif len(utterance.frames) == utterance.order.max_frames:
                self._end(stream, LENGTH, now, codes)
            else:
                stream.add(codes, running, now)

    def close(self, error: MisoError, now: float) -> None:
        """End every stream with `error`, and refuse all that come from now on for the same reason."""
        self._closed = error.message
        for stream in list(self.streams.values()):
            if not stream.finish:
                self._fail(stream, error, now)

    def _retire(self, stream: Stream, now: float) -> None:
        """End, probe or forget a stream if it is time."""
        deadline = stream.utterance.order.deadline
        if stream.finish:
            if stream.settled or stream.silent(now):
                self._forget(stream)
        elif stream.failed:
            self._fail(stream, Internal("a later stage failed"), now)
        elif stream.cancelled:
            self._fail(stream, Cancelled("the caller left"), now)
        elif deadline is not None and now >= deadline:
            self._fail(stream, DeadlineExceeded("TIMEOUT_MS has passed"), now)
        elif stream.silent(now):
            self._fail(stream, Internal("a later stage stopped answering"), now)
        else:
            stream.probe(now)

    def _end(self, stream: Stream, finish: str, now: float, last: npt.NDArray[np.int32] | None = None) -> None:
        """End an utterance with a last chunk, which has the frame `last`."""
        self.scheduler.remove(stream.utterance)
        self.statistics.end(finish)
        self._ends.append(now)
        stream.end(finish, now, last)

    def _fail(self, stream: Stream, error: MisoError, now: float) -> None:
        """End an utterance with an error: an ordinary one before its first chunk, in FINISH after it."""
        if stream.started:
            self._end(stream, finish_of(error), now)
            return
        self.scheduler.remove(stream.utterance)
        self.statistics.end(finish_of(error))
        self._forget(stream)
        self._send(stream.receiver, error)

    def _forget(self, stream: Stream) -> None:
        self.scheduler.release_slot(stream.utterance)
        del self.streams[stream.utterance.stream]
