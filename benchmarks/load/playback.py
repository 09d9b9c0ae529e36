"""Playback simulated from the times at which chunks came. Pure functions of those times."""

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
    """When it came, in s since the start of the run."""
    samples: int


@dataclass(frozen=True)
class Playback:
    """How an utterance sounded to someone who played its first chunk as soon as it came."""

    underrun_s: float
    """Silence within the utterance because the next chunk had not come. It is also the head start that would have
    avoided it: a player that waits this much longer before its first sample never starves."""
    stalls: int
    """Times that playback stopped."""
    longest_s: float
    """The longest stop."""


def play(arrivals: Sequence[Arrival]) -> Playback:
    """Play chunks as they come; a player that has starved goes on with the next chunk at once."""
    if not arrivals:
        return Playback(0.0, 0, 0.0)
    stops = np.diff(_stopped(arrivals))
    return Playback(float(stops.sum()), int((stops > 0).sum()), float(stops.max(initial=0.0)))


def gaps(arrivals: Sequence[Arrival]) -> list[float]:
    """Seconds from each chunk to the next."""
    return [later.at_s - earlier.at_s for earlier, later in pairwise(arrivals)]


def buffered(arrivals: Sequence[Arrival]) -> tuple[Array, Array]:
    """Seconds of audio that have come and are not yet played, as a line for a plot.

    Returns:
        Times in s since the first chunk and seconds of audio; two points for each chunk, before and after it came.
    """
    if not arrivals:
        return np.zeros(0), np.zeros(0)
    at, audio = _times(arrivals)
    # What has come before each chunk, less what was played until then: the time that passed without the stops.
    before = np.cumsum(audio) - audio - (at - at[0] - _stopped(arrivals))
    return np.repeat(at - at[0], 2), np.column_stack([before, before + audio]).ravel()


def _times(arrivals: Sequence[Arrival]) -> tuple[Array, Array]:
    at = np.array([each.at_s for each in arrivals])
    return at, np.array([each.samples for each in arrivals]) / SAMPLE_RATE


def _stopped(arrivals: Sequence[Arrival]) -> Array:
    """Seconds of silence until each chunk came.

    A chunk is late by its time since the first chunk less the audio before it. Each stop makes all later chunks due
    that much later, so that the silence until a chunk is the largest lateness so far.
    """
    at, audio = _times(arrivals)
    late = at - at[0] - (np.cumsum(audio) - audio)
    return np.maximum.accumulate(np.round(late, 6))  # to the microsecond: float noise is no stop
