"""Every utterance from its submission until its last chunk is acknowledged, and the one exit through which it leaves.

Whatever ends an utterance (end of speech, length, cancel, deadline, an error here or in a later stage, shutdown) goes
through `end` or `fail`: its blocks are free at once; its slot, which is the later stages' slot, when they are known to
be done with it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from misotts.generate.delivery import Chunk, Delivery
from misotts.generate.outbox import Outbox, Receiver
from misotts.generate.scheduler import Scheduler
from misotts.generate.statistics import Statistics
from misotts.generate.utterance import Utterance
from misotts_client.errors import Cancelled, DeadlineExceeded, Internal, MisoError, finish_of

RETIRE_EVERY_S = 0.01
DEFAULT_RETRY_S = 1.0
RETRY_LIMITS_S = (0.1, 30.0)


@dataclass
class Stream:
    """One utterance and its caller."""

    utterance: Utterance
    receiver: Receiver
    delivery: Delivery
    submitted: float


class Streams:
    """Not thread-safe: the generator's lock guards it."""

    def __init__(self, scheduler: Scheduler, statistics: Statistics, outbox: Outbox, codebooks: int) -> None:
        self._scheduler, self._statistics, self._outbox = scheduler, statistics, outbox
        self._codebooks = codebooks
        self._streams: dict[int, Stream] = {}
        self._retired = 0.0
        self._ends: deque[float] = deque(maxlen=16)

    def __len__(self) -> int:
        return len(self._streams)

    def of(self, utterance: Utterance) -> Stream:
        return self._streams[utterance.stream]

    def paused(self) -> set[Utterance]:
        """Utterances whose chunks pile up on the road."""
        return {stream.utterance for stream in self._streams.values() if stream.delivery.paused}

    def open(self, utterance: Utterance, receiver: Receiver, now: float) -> None:
        def send(chunk: Chunk) -> None:
            self._outbox.put(receiver, chunk)

        delivery = Delivery(utterance, send, self._codebooks, now)
        self._streams[utterance.stream] = Stream(utterance, receiver, delivery, now)

    def acknowledge(self, stream: int, index: int, cancelled: bool, failed: bool = False) -> None:
        """See `Generator.acknowledge`; a stream that is gone is no error."""
        if known := self._streams.get(stream):
            known.delivery.acknowledge(index, cancelled, failed)

    def abandon(self, stream: int) -> None:
        """See `Generator.abandon`."""
        if known := self._streams.get(stream):
            known.delivery.abandon()

    def retire(self, now: float) -> None:
        """Look after every stream: end what must end, probe who is quiet, forget who is done."""
        if now - self._retired < RETIRE_EVERY_S:
            return
        self._retired = now
        for stream in list(self._streams.values()):
            utterance, delivery = stream.utterance, stream.delivery
            if utterance.finish:
                if delivery.settled or delivery.silent(now):
                    self._forget(stream)
            elif delivery.failed:
                self.fail(stream, Internal("a later stage failed"), now)
            elif delivery.cancelled:
                self.fail(stream, Cancelled("the caller left"), now)
            elif utterance.order.deadline is not None and now >= utterance.order.deadline:
                self.fail(stream, DeadlineExceeded("TIMEOUT_MS has passed"), now)
            elif delivery.silent(now):
                self.fail(stream, Internal("a later stage stopped answering"), now)
            else:
                delivery.probe(now)

    def end(self, stream: Stream, finish: str, now: float) -> None:
        """End an utterance; its last chunk says why."""
        self._scheduler.remove(stream.utterance)
        stream.utterance.finish = finish
        self._statistics.end(finish)
        self._ends.append(now)
        stream.delivery.end(now)

    def fail(self, stream: Stream, error: MisoError, now: float) -> None:
        """End an utterance with an error: an ordinary one before its first chunk, in FINISH after it."""
        finish = finish_of(error)
        if stream.delivery.started:
            self.end(stream, finish, now)
            return
        self._scheduler.remove(stream.utterance)
        stream.utterance.finish = finish
        self._statistics.end(finish)
        self._forget(stream)
        self._outbox.put(stream.receiver, error)

    def fail_all(self, error: MisoError, now: float) -> None:
        for stream in list(self._streams.values()):
            if not stream.utterance.finish:
                self.fail(stream, error, now)

    def retry_after_s(self) -> float:
        """Seconds until a place is likely to be free: the mean time between the last utterances' ends."""
        if len(self._ends) < 2:
            return DEFAULT_RETRY_S
        low, high = RETRY_LIMITS_S
        return min(max((self._ends[-1] - self._ends[0]) / (len(self._ends) - 1), low), high)

    def _forget(self, stream: Stream) -> None:
        self._scheduler.release_slot(stream.utterance)
        del self._streams[stream.utterance.stream]
