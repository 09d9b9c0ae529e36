"""The calls of a load: when they come, their texts, voices and listeners; the same ones each time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from misotts.config import FRAME_MS
from misotts_client import SpeechRequest

Arrivals = Literal["poisson", "constant"]
Listener = Literal["listens", "cancels", "slow"]

TEXTS = Path(__file__).resolve().parents[2] / "demo" / "text.txt"

SPREAD = 0.6
"""Sigma of the log-normal text lengths: nine in ten lie between 0.37 and 2.7 times the median."""
MIN_CHARS, MAX_CHARS = 10, 1000
MIN_AUDIO_MS, MAX_AUDIO_MS = 3 * FRAME_MS, 160_000
PATIENCE_MS = 30_000
"""Time limit of a call beyond three times its audio: a hung server must not hang the measurement."""


@dataclass(frozen=True)
class Load:
    """A closed loop of `streams`, or an open loop of `rate`; the other one is None."""

    seconds: float
    """Time during which calls that count are made; calls that are under way then are heard to their end."""
    warm_up_s: float = 0.0
    """Time before it in which calls are made, under the same load, that do not count: the server fills up."""
    streams: int | None = None
    """Number of callers, each of which calls again as soon as its last call has ended."""
    rate: float | None = None
    """Calls per second, whether or not earlier calls have ended."""
    arrivals: Arrivals = "poisson"
    """Open loop: distribution of the times between calls."""
    chars: int = 60
    """Median length of a text, in code points."""
    max_ms_per_char: float = 70.0
    """Longest audio per code point, in ms. Random weights always speak to this limit."""
    voices: tuple[str, ...] = ()
    voice_share: float = 0.0
    """Share of calls with a voice, any of `voices`."""
    cancel_share: float = 0.0
    """Share of callers that cancel somewhere within the audio."""
    slow_share: float = 0.0
    """Share of callers that take chunks more slowly than they play."""
    chunk_frames: int = 0
    """As in the contract; 0 leaves it to the server."""
    lead_ms: int | None = 0
    """As in the contract; a benchmark measures what the server can do, not what a listener needs."""
    seed: int = 0

    @property
    def end_s(self) -> float:
        """Time from which no more calls are made."""
        return self.warm_up_s + self.seconds

    @property
    def mean_audio_s(self) -> float:
        """Mean length of an utterance that speaks to its limit."""
        return self.chars * self.max_ms_per_char / 1000 * math.exp(SPREAD**2 / 2)


@dataclass(frozen=True)
class Call:
    """One call to make."""

    number: int
    at_s: float | None
    """Time at which the call is due, in s since the start; None in a closed loop, where a free caller makes it."""
    request: SpeechRequest
    listener: Listener
    cancel_after_s: float
    """Audio in s after which a caller that cancels hangs up; infinite for other callers."""


def calls(load: Load) -> Iterator[Call]:
    """Yield the calls in order: those due before `end_s` in an open loop, which may be none, without end in a closed
    loop."""
    corpus = TEXTS.read_text(encoding="utf-8").split()
    # A generator of its own, so that the same seed sends the same texts at every rate and in both loops.
    rng = Random(load.seed)
    for number, at_s in enumerate(_due_times(load)):
        yield _call(load, number, at_s, corpus, rng)


def _due_times(load: Load) -> Iterator[float | None]:
    if load.rate is None:
        while True:
            yield None
    rng = Random(f"arrivals {load.seed}")
    at_s = rng.expovariate(load.rate) if load.arrivals == "poisson" else 0.0
    while at_s < load.end_s:
        yield at_s
        at_s += rng.expovariate(load.rate) if load.arrivals == "poisson" else 1 / load.rate


def _call(load: Load, number: int, at_s: float | None, corpus: list[str], rng: Random) -> Call:
    # Every call takes all its random numbers, used or not, so that a changed share does not change the other calls.
    chars = round(min(max(rng.lognormvariate(math.log(load.chars), SPREAD), MIN_CHARS), MAX_CHARS))
    text = _text(chars, rng.randrange(len(corpus)), corpus)
    audio_ms = int(min(max(len(text) * load.max_ms_per_char, MIN_AUDIO_MS), MAX_AUDIO_MS)) // FRAME_MS * FRAME_MS
    has_voice, which_voice, kind, cancel_at = (rng.random() for _ in range(4))
    voice = load.voices[int(which_voice * len(load.voices))] if has_voice < load.voice_share and load.voices else None
    listener: Listener = (
        "cancels" if kind < load.cancel_share else "slow" if kind < load.cancel_share + load.slow_share else "listens"
    )
    request = SpeechRequest(
        text,
        voice=voice,
        seed=rng.getrandbits(32),
        max_audio_ms=audio_ms,
        chunk_frames=load.chunk_frames,
        lead_ms=load.lead_ms,
        timeout_ms=PATIENCE_MS + 3 * audio_ms,
    )
    return Call(number, at_s, request, listener, cancel_at * audio_ms / 1000 if listener == "cancels" else math.inf)


def _text(chars: int, start: int, corpus: list[str]) -> str:
    """Return at most `chars` code points of the corpus from word number `start` on, repeating the corpus."""
    words = [corpus[start]]
    length = len(words[0])
    while length < chars:
        words.append(corpus[(start + len(words)) % len(corpus)])
        length += 1 + len(words[-1])
    return " ".join(words)[:chars].strip()
