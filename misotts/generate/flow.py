"""Flow control: how far a stream may be ahead of its caller, and which streams pause in the next step.

A stream pauses

- while its chunks are not acknowledged, or the gateway has not been able to write 10 s of its audio;
- if it is batch work and a listener is about to run out of audio;
- if it is further ahead of playback than its lead allows, or has much audio left while a listener is about to run out,
  as long as nothing waits for a slot: a stream that pauses keeps its slot, so those that wait are served sooner if it
  goes on.

A stream without a bound on its lead is batch work: the caller wants all of it, and no part of it at a certain time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from misotts.config import NO_SLOT
from misotts.generate.pace import FRAME_S, FULL_FRAMES, LEAD_S
from misotts.generate.stream import Stream
from misotts.generate.utterance import Utterance
from misotts.order import Order

TICK_SPARE_S = 0.0005
"""A wait that ends a little early would last for another tick."""

SPARE_S = 2.0
"""A listener with more audio than this yields to one that is about to run out."""

PROVEN_AFTER_S = 1.0
"""A listener that is about to run out after this time shows that too many run."""

BEGINNING_S = 0.5
"""A stream begins until its caller has played this long."""

AGAIN_SHARE = 0.5
"""See `FlowOptions.again_s`."""

AdmissionRule = Literal["slots", "pace"]


@dataclass(frozen=True)
class FlowOptions:
    """Options of the generate stage that bound work ahead of callers, and the wait for a slot."""

    lead_s: float = 10.0
    """Lead over playback of a stream without LEAD_MS; 0: no bound."""
    admission: AdmissionRule = "slots"
    """`slots`: as many utterances run as there are slots; `pace`: as many as the step time allows in 80 ms."""
    max_wait_s: float = 2.0
    """An utterance that would wait longer for its slot is refused."""

    @property
    def again_s(self) -> float:
        """A server that has refused an utterance refuses more until the wait for a slot is as short as this. The time
        until then is told: the time until it is `max_wait_s` would be the small difference of two long times."""
        return AGAIN_SHARE * self.max_wait_s

    def lead_of(self, order: Order, now: float) -> float | None:
        """Return the bound of an order's lead in s; None: batch work. It is infinite for a listener with a TIMEOUT_MS
        that is shorter than its longest audio: it would pass before the end at the pace of playback."""
        lead_s = self.lead_s if order.lead_ms is None else order.lead_ms / 1000
        hurries = order.deadline is not None and now + order.max_frames * FRAME_S > order.deadline
        return math.inf if lead_s and hurries else lead_s or None


DEFAULTS = FlowOptions()


def pausing(streams: Collection[Stream], waiting: bool, now: float) -> set[Utterance]:
    """Return the utterances that pause in the next step. `waiting`: an utterance waits for a slot."""
    urgent = listener_runs_out(streams, now)
    tick = now // FRAME_S * FRAME_S
    return {
        stream.utterance
        for stream in streams
        if stream.held
        or (urgent and stream.utterance.batch)
        or (not waiting and (_leads(stream, tick) or (urgent and stream.pace.left_s(now) > SPARE_S)))
    }


def first_frames(streams: Iterable[Stream], most: int, step_s: float, now: float) -> int:
    """Return the number of frames that a caller should hear in a first chunk at least.

    One is heard soonest. But a stream costs most while it begins: where many begin at once, small chunks of each would
    come too late. So the number grows with the share of streams that begin in the `most` that may run, up to a full
    chunk for a half, or to as many as steps of `step_s` make in a frame's time. It is a full one where `most` is 0,
    because others wait for a slot: a caller that has waited loses little.
    """
    if not most:
        return FULL_FRAMES
    beginning = sum(
        stream.utterance.slot != NO_SLOT and (stream.pace.playing_s(now) or 0.0) < BEGINNING_S for stream in streams
    )
    longest = 1 + int(min(FRAME_S / max(step_s, TICK_SPARE_S), FULL_FRAMES - 1))
    return min(max(2 * FULL_FRAMES * (beginning - 1) // most, 1), longest)


def tick_s(now: float) -> float:
    """Return the time until streams at their leads may go on: together, once in a frame's time, so that they make one
    large step instead of many small ones."""
    return FRAME_S - now % FRAME_S + TICK_SPARE_S


def listener_runs_out(streams: Iterable[Stream], now: float, after_s: float = 0.0) -> bool:
    """True if a listener plays, has done so for `after_s`, and has less audio left than a late chunk takes, or none
    that has left the last stage."""
    for stream in streams:
        if not (stream.utterance.batch or stream.finish or stream.held):
            playing_s = stream.pace.playing_s(now)
            if (
                playing_s is not None
                and playing_s >= after_s
                and (stream.pace.left_s(now) < LEAD_S or stream.arrived_s(now) <= 0)
            ):
                return True
    return False


def _leads(stream: Stream, now: float) -> bool:
    """True if the next frame would exceed the stream's lead."""
    utterance = stream.utterance
    return utterance.lead_s is not None and stream.pace.ahead(utterance.sampled + 1, utterance.lead_s, now)
