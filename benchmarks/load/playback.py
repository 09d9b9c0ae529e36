"""Playback simulated from the arrival times of chunks, by pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from misotts.config import SAMPLE_RATE

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arrival:
    """A chunk with audio."""

    at_s: float
    """Seconds since the start of the run."""
    samples: int


@dataclass(frozen=True)
class Playback:
    """The playback of an utterance; its first chunk is played as soon as it has come."""

    underrun_s: float
    """Silence within the utterance because the next chunk had not come. It is also the head start that would have
    avoided it: a player that waits this long before its first sample never runs out."""
    stalls: int
    """Number of times that playback stopped."""
    longest_s: float
    """The longest stop."""


def play(arrivals: Sequence[Arrival]) -> Playback:
    """Play chunks as they come; a player that has run out goes on with the next chunk at once."""
    if not arrivals:
        return Playback(0.0, 0, 0.0)
    stops = np.diff(_stopped(arrivals))
    return Playback(float(stops.sum()), int((stops > 0).sum()), float(stops.max(initial=0.0)))


def gaps(arrivals: Sequence[Arrival]) -> list[float]:
    """Return the seconds from each chunk to the next."""
    return [later.at_s - earlier.at_s for earlier, later in pairwise(arrivals)]


def buffered(arrivals: Sequence[Arrival]) -> tuple[Array, Array]:
    """Return the audio that has come and is not yet played, as a line for a plot: times in s since the first chunk, and
    seconds of audio; two points for each chunk, before and after it came."""
    if not arrivals:
        return np.zeros(0), np.zeros(0)
    at, audio = _times(arrivals)
    # The audio that came before each chunk, less the audio played until then, which is the time without the stops.
    before = np.cumsum(audio) - audio - (at - at[0] - _stopped(arrivals))
    return np.repeat(at - at[0], 2), np.column_stack([before, before + audio]).ravel()


def played_at(arrivals: Sequence[Arrival], position_s: float) -> float:
    """Return the time at which the audio at `position_s`, which has come, is played."""
    at, audio = _times(arrivals)
    chunk = int(np.searchsorted(np.cumsum(audio), position_s, side="right"))
    return float(at[0] + position_s + _stopped(arrivals)[min(chunk, len(at) - 1)])


def _times(arrivals: Sequence[Arrival]) -> tuple[Array, Array]:
    at = np.array([each.at_s for each in arrivals])
    return at, np.array([each.samples for each in arrivals]) / SAMPLE_RATE


def _stopped(arrivals: Sequence[Arrival]) -> Array:
    """Return the seconds of silence until each chunk came.

    A chunk is late by its time since the first chunk less the audio before it. Each stop makes all later chunks due
    that much later, so the silence until a chunk is the largest lateness so far.
    """
    at, audio = _times(arrivals)
    late = at - at[0] - (np.cumsum(audio) - audio)
    return np.maximum.accumulate(np.round(late, 6))  # to the microsecond: float noise is no stop
