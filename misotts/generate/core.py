"""The generate stage without thread, clock and device: every stream from its submission to its last acknowledgement.

Each step begins with a plan and ends with its frames:

    plan      end cancelled, late and lost utterances; free the slots of streams that have their last chunk
              acknowledged; admit waiting utterances; choose each utterance's positions
    (engine)  compute the planned step
    collect   add each new frame to its stream, which sends chunks; end the utterances that are finished

A step may be planned before the one before is collected: an utterance that turns out to have ended has then sampled one
frame too many, which is dropped.

`misotts.generate.flow` says which streams pause, `misotts.generate.admission` how many run and how long others wait.

Whatever ends an utterance (end of speech, length, cancel, deadline, an error here or in a later stage, shutdown), it
leaves through `_end` or `_fail`: its blocks are free at once; its slot, when the later stages are done with it.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from misotts.config import NO_SLOT
from misotts.engines.interface import Limits, Step
from misotts.generate.admission import Admission
from misotts.generate.blocks import BlockPool
from misotts.generate.conversations import OVERLAP_S, SESSIONS, Conversations, SessionOptions, overlap
from misotts.generate.flow import DEFAULTS, PROVEN_AFTER_S, FlowOptions, first_frames, listener_runs_out, pausing
from misotts.generate.scheduler import QueueFullError, Scheduler, TooLongError
from misotts.generate.slot_table import SlotTable
from misotts.generate.statistics import Statistics
from misotts.generate.stream import Receiver, Send, Stream
from misotts.generate.utterance import Utterance
from misotts.hold_back import HoldBack
from misotts_client.errors import (
    EOS,
    LENGTH,
    Cancelled,
    DeadlineExceeded,
    Internal,
    MisoError,
    Unavailable,
    finish_of,
    try_again,
)
from misotts_gateway.tickets import KEPT_GONE

RETIRE_EVERY_S = 0.01
REFRESH_EVERY_S = 0.1
MOST_WAITS = 512
"""Waits that are published: so many requests do not come between two reports."""
PATIENCE = 2.0
"""An utterance is refused after all when it has waited for its slot this many times as long as it may."""
SLOW_S = 0.06
"""If a step and the later stages' time for a chunk together take longer, a first chunk waits for more frames."""
DELAY_SHARE = 1 / 16
"""Weight of the newest chunks' time where chunks have become faster."""


class Core:
    """Not thread-safe. Times are seconds of the caller's clock."""

    def __init__(
        self,
        pool: BlockPool,
        limits: Limits,
        max_positions: int,
        send: Send,
        hold_back: HoldBack = HoldBack(),
        options: FlowOptions = DEFAULTS,
        retire_every_s: float = RETIRE_EVERY_S,
        sessions: SessionOptions = SESSIONS,
    ) -> None:
        """`max_positions`: of the longest utterance. `send`: takes chunks and refusals, and returns at once.
        `hold_back`: what the later stages hold back. `retire_every_s`: time between two looks for streams to end.
        `sessions`: bounds of conversations."""
        self.scheduler = Scheduler(pool, limits)
        self.admission = Admission(options, limits.max_streams)
        self.conversations = Conversations(pool, min(max_positions, pool.capacity * pool.block_size), sessions)
        self.statistics = Statistics()
        self.streams: dict[int, Stream] = {}
        """Streams that hold something: waiting, running, or not acknowledged to the end."""
        self._send, self._hold_back = send, hold_back
        self._slots = SlotTable(limits.max_streams, pool.blocks_for(max_positions))
        self._in_flight: deque[list[Utterance]] = deque()
        """Utterances that sample a frame in each step that is planned and not collected."""
        self._planned = False
        self._planned_at, self._served = 0.0, 0
        """Time of the last plan, and the streams that had a slot then and did not wait for their callers."""
        self._retire_every_s, self._retired = retire_every_s, -retire_every_s
        self._refreshed = -REFRESH_EVERY_S
        self._tickets: dict[int, Stream] = {}
        self._gone: LRUCache[int, None] = LRUCache(KEPT_GONE)
        self._acknowledged: list[tuple[float, int]] = []
        """Times at which the chunks were sent that have been acknowledged since the last plan, and their frames."""
        self._delay_s = 0.0
        """Time that the later stages lately took for a chunk, from its sending to its acknowledgement. It rises at once
        and falls slowly: a chunk that is too small makes its caller run out of audio."""
        self._closed: str | None = None
        self.paused = 0
        """Utterances that the last plan left out: see `misotts.generate.flow`."""

    def submit(self, utterance: Utterance, receiver: Receiver, now: float) -> None:
        """Queue an utterance; `receiver` gets its chunks.

        Raises:
            Unavailable: the stage is closed, its queue is full, the wait for a slot would be too long, its KV pool is
                too small, or too many turns of conversations wait for the ones before.
            Cancelled: the gateway has already told that the caller has left.
        """
        order, most = utterance.order, self.scheduler.limits.max_waiting
        utterance.submitted_at = now
        self.statistics.submitted += 1
        try:
            if self._closed:
                raise Unavailable(self._closed)
            if order.ticket in self._gone:
                raise Cancelled("the caller left")
            if not order.session or self.conversations.free(order.session):
                self._begin(utterance, now)
            elif self.conversations.waiting < most:
                self.conversations.wait(utterance, now)
            else:
                raise try_again(f"{most} turns wait for the ones before in their conversations, no more may", OVERLAP_S)
        except MisoError:
            self.statistics.rejected += 1
            raise
        if not self.streams:
            self._delay_s = 0.0  # what an overload has taught says nothing of an idle server
        stream = Stream(utterance, receiver, self._send, self._hold_back, now)
        self.streams[utterance.stream] = stream
        if order.ticket:
            self._tickets[order.ticket] = stream

    def _begin(self, utterance: Utterance, now: float) -> None:
        """Queue an utterance, with its complete prompt if it is a turn of a conversation."""
        if not utterance.order.session:
            self._queue(utterance, now)
            return
        self.conversations.begin(utterance, now)
        try:
            self._queue(utterance, now)
        except MisoError as error:
            self.conversations.end(utterance, finish_of(error), 0, now)
            raise

    def _begin_turns(self, now: float) -> None:
        """Begin the turns that have waited for the one before, or refuse them."""
        for utterance, begins in self.conversations.take_waiting(now):
            try:
                if not begins:
                    raise overlap()
                self._begin(utterance, now)
            except MisoError as error:
                self._fail(self.streams[utterance.stream], error, now)

    def _queue(self, utterance: Utterance, now: float) -> None:
        options = self.admission.options
        utterance.lead_s = options.lead_of(utterance.order, now)
        wait_s = self.wait_s(utterance.batch)
        if wait_s > options.max_wait_s:
            over_s = f"the wait for a slot would be {wait_s:.1f} s, at most {options.max_wait_s:g} s are allowed"
            raise try_again(over_s, wait_s - options.again_s)
        try:
            self.scheduler.add(utterance)
        except QueueFullError as error:
            raise try_again(f"{error}, all places are taken", self._slot_s()) from None
        except TooLongError as error:
            raise Unavailable(f"{error}; ask for a smaller MAX_AUDIO_MS or give the server more KV memory") from None

    def wait_s(self, batch: bool = False) -> float:
        """Return the expected wait for a slot of an utterance that comes now, which is or is not batch work."""
        ahead = self.scheduler.ahead(batch)
        return 0.0 if len(ahead) < self._free_slots else self._waits(ahead, 1)[0]

    @property
    def _free_slots(self) -> int:
        """Number of slots that utterances may get at once."""
        return max(min(self.scheduler.free_slots, self.admission.most - self._taken_slots), 0)

    @property
    def _taken_slots(self) -> int:
        return self.scheduler.limits.max_streams - self.scheduler.free_slots

    def _waits(self, ahead: list[Utterance], count: int) -> list[float]:
        """Return the expected waits of the next `count` utterances behind those `ahead` of them in the queue."""
        running = [each.progress for each in self.streams.values() if each.utterance.slot != NO_SLOT]
        return self.admission.waits(running, [u.order.max_frames for u in ahead if u.slot == NO_SLOT], count)

    def _slot_s(self) -> float:
        """Return the expected time until an utterance ends once every slot is taken: then the queue has a place."""
        free = self._free_slots
        ahead = list(islice(self.scheduler.waiting, free))
        return self._waits(ahead, free - len(ahead) + 1)[-1]

    def acknowledge(self, stream: int, index: int, failed: bool = False) -> bool:
        """Record that the last stage is done with chunk `index` of `stream`; return True if the next plan may differ
        for it. `failed`: it, or a stage before it, has ended the stream with an error. A stream that is gone is no
        error."""
        known = self.streams.get(stream)
        if known is None:
            return False
        held = known.held
        self._acknowledged += known.acknowledge(index, failed)
        return held or known.ending

    def abandon(self, stream: int) -> None:
        """Record that the caller of `stream` has left and will acknowledge nothing more."""
        if known := self.streams.get(stream):
            known.cancelled = known.abandoned = True

    def take(self, ticket: int, frames: int, gone: bool = False) -> bool:
        """Record that the gateway has written `frames` frames of the utterance with `ticket` to its caller, in all;
        return True if the next plan may differ for it. `gone`: the caller has left; this may come before the utterance
        does."""
        if gone:
            self.conversations.cut(ticket, frames)
        stream = self._tickets.get(ticket)
        if stream is None:
            if gone:
                self._gone[ticket] = None
            return False
        held = stream.held
        stream.take(frames)
        stream.cancelled |= gone
        return held or stream.ending

    def spend(self, seconds: float) -> None:
        """Record that a pass of the loop took `seconds`."""
        self.statistics.spend(seconds)

    def figures(self) -> dict[str, Any]:
        """Return what a gateway publishes and refuses by: `misotts_gateway.admission` has the meanings."""
        scheduler, options = self.scheduler, self.admission.options
        return {
            "slots": scheduler.limits.max_streams,
            "free_slots": scheduler.free_slots,
            "waiting": len(scheduler.waiting),
            "submitted": self.statistics.submitted,
            "listeners": self._queue_figures(batch=False),
            "batch": self._queue_figures(batch=True),
            "slot_s": round(self._slot_s(), 3),
            "max_wait_s": options.max_wait_s,
            "again_s": options.again_s,
            "lead_s": options.lead_s,
        }

    def _queue_figures(self, batch: bool) -> dict[str, Any]:
        places = self.scheduler.places(batch)
        waits_s = self._waits(self.scheduler.ahead(batch), max(min(places, MOST_WAITS), 1))
        allowed = sum(wait_s <= self.admission.options.max_wait_s for wait_s in waits_s)
        return {"places": places, "waits_s": [round(wait_s, 3) for wait_s in waits_s[: allowed + 1]]}

    def plan(self, now: float) -> Step | None:
        """End the streams that need it, then plan the engine's next step; None if there is nothing to compute."""
        if now - self._retired >= self._retire_every_s:
            self._retired = now
            for stream in list(self.streams.values()):
                self._retire(stream, now)
            self._begin_turns(now)
        self.admission.add_time(now - self._planned_at, self._served, sum(n for _, n in self._acknowledged), now)
        if self._acknowledged:
            mean_s = sum(now - sent for sent, _ in self._acknowledged) / len(self._acknowledged)
            self._delay_s = max(mean_s, self._delay_s + DELAY_SHARE * (mean_s - self._delay_s))
            self._acknowledged.clear()
        if now - self._refreshed >= REFRESH_EVERY_S:
            self._refreshed = now
            self.admission.refresh(now)
            self.conversations.expire(now)
        paused = pausing(self.streams.values(), bool(self.scheduler.waiting), now)
        self.paused = len(paused)
        parts = self.scheduler.schedule(paused, self._most(now))
        self._refuse_late(now)
        self._planned_at = now
        self._served = sum(
            stream.utterance.slot != NO_SLOT and (stream.behind or stream.utterance not in paused)
            for stream in self.streams.values()
        )
        self._planned = bool(parts)
        if not parts:
            return None
        for part in parts:
            if not part.utterance.sampling_at:
                part.utterance.admitted_at = part.utterance.admitted_at or now
                part.utterance.sampling_at = now if part.samples else 0.0
        step = self._slots.step(parts)
        self.scheduler.advance(parts)
        self._in_flight.append([part.utterance for part in parts if part.samples])
        self.statistics.steps += 1
        self.statistics.frames += len(self._in_flight[-1])
        self.statistics.prefilled += len(step.rows)
        return step

    def _most(self, now: float) -> int:
        """Return the number of utterances that may run, new ones included."""
        admission, paced = self.admission, self.admission.options.admission == "pace"
        if paced and listener_runs_out(self.streams.values(), now, PROVEN_AFTER_S):
            admission.hold(self._taken_slots)
            return 0  # whatever the steps say
        return admission.proven

    def due(self, ready: bool) -> bool:
        """True if the oldest step in flight should be collected before the next plan: it is `ready`, a later one is in
        flight, or the last plan was empty."""
        return ready or len(self._in_flight) > 1 or not self._planned

    def collect(self, frames: npt.NDArray[np.int32], now: float) -> None:
        """Take the frames [samples, codebooks] of the oldest step in flight."""
        running = len(self.scheduler.running)
        crowded = len(self.scheduler.waiting) > self._free_slots  # others only wait for the next plan
        step_s = now - self._planned_at
        first = first_frames(self.streams.values(), 0 if crowded else self.admission.most, step_s, now)
        slow = step_s + self._delay_s > SLOW_S
        sampled = zip(self._in_flight.popleft(), frames, frames.any(axis=1).tolist(), strict=True)
        # The youngest first: a stream's first sound must not wait behind the next frames of the others.
        for utterance, codes, is_speech in reversed(list(sampled)):
            stream = self.streams.get(utterance.stream)
            if stream is None or stream.finish:  # it ended while this frame was computed
                continue
            if not utterance.frames:
                utterance.first_frame_at = now
                self.statistics.observations["first_frame_seconds"].append(now - stream.submitted)
            utterance.frames.append(codes)
            if not is_speech:  # the frame of zeros is the end of speech; the decode stage turns it into audio
                self._finish(stream, EOS, now, codes)
            elif len(utterance.frames) == utterance.order.max_frames:
                self._finish(stream, LENGTH, now, codes)
            else:
                stream.add(codes, running, self._delay_s, now, first, slow)

    def close(self, error: MisoError, now: float) -> None:
        """End every stream with `error`, and refuse all that come from now on for the same reason."""
        self._closed = error.message
        for stream in list(self.streams.values()):
            if not stream.finish:
                self._fail(stream, error, now)

    def _retire(self, stream: Stream, now: float) -> None:
        """End or forget a stream if it is time."""
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

    def _refuse_late(self, now: float) -> None:
        """Refuse those that have waited too long for a slot, once this plan has given out the free ones."""
        options = self.admission.options
        for utterance in list(self.scheduler.waiting):
            stream = self.streams[utterance.stream]
            waited_s = now - stream.submitted
            if utterance.slot == NO_SLOT and waited_s > PATIENCE * options.max_wait_s:
                late = f"it has waited {waited_s:.1f} s for a slot, at most {options.max_wait_s:g} s are allowed"
                wait_s = max(self.wait_s(utterance.batch), options.max_wait_s)  # a shorter one has proved untrue
                self._fail(stream, try_again(late, wait_s - options.again_s), now)

    def _finish(self, stream: Stream, finish: str, now: float, last: npt.NDArray[np.int32]) -> None:
        """End an utterance that is complete."""
        self.admission.add_end(len(stream.utterance.frames), stream.utterance.order.max_frames)
        self.statistics.guarded += finish == LENGTH and stream.utterance.order.guarded
        self._end(stream, finish, now, last)

    def _end(self, stream: Stream, finish: str, now: float, last: npt.NDArray[np.int32] | None = None) -> None:
        """End an utterance with a last chunk, which has the frame `last`."""
        self._remove(stream, finish, now)
        stream.end(finish, now, last)

    def _fail(self, stream: Stream, error: MisoError, now: float) -> None:
        """End an utterance with an error: an ordinary one before its first chunk, in FINISH after it."""
        if stream.started:
            self._end(stream, finish_of(error), now)
            return
        self._remove(stream, finish_of(error), now)
        self._forget(stream)
        self._send(stream.receiver, error)

    def _remove(self, stream: Stream, finish: str, now: float) -> None:
        self.scheduler.remove(stream.utterance)
        frames = len(stream.utterance.frames)
        self.conversations.end(stream.utterance, finish, frames if finish in (EOS, LENGTH) else stream.delivered, now)
        self.statistics.end(finish)

    def _forget(self, stream: Stream) -> None:
        self.scheduler.release_slot(stream.utterance)
        del self.streams[stream.utterance.stream]
        self._tickets.pop(stream.utterance.order.ticket, None)
