"""Ten-turn conversations: time to first audio and positions computed by turn, with SESSION, with CONTEXT, without.

    python -m benchmarks.sessions --model models/demo

In each turn the user speaks for 3 s and the model answers with 3 s of speech, in one process without a server. The ways
take turns; the figures are medians over the rounds: the time to first audio, and the CPU time of the process until
then, on which other work of the machine has less influence. A longer conversation shows what the turn costs for which
the window is trimmed. The 8B model is simulated on the floor model of an H100 (`misotts capacity`), without the
encoding of audio.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.capacity.options import PLANNED_TIMES
from benchmarks.capacity.simulate import VOICE_POSITIONS, Caller, Server
from benchmarks.costs.gpus import GPUS, floor
from benchmarks.load.plan import Call
from benchmarks.record import save
from misotts.config import FRAME_MS
from misotts.engines.interface import Limits
from misotts.generate.utterance import Utterance
from misotts.order import Order
from misotts.synthesizer import Synthesizer
from misotts_client import Segment, SpeechRequest
from misotts_client.speech import Recording

WAYS = ("SESSION", "CONTEXT", "without")
TURNS, SPOKEN_MS = 10, 3_000
TEXTS = (
    "The kettle is on, and the tea will be ready soon.",
    "We could walk to the river before it gets dark.",
    "I have put the letters on the table by the door.",
)
"""About 3 s of speech each."""
TEXT_POSITIONS = 18
WINDOW_TURNS = 25
"""Turns after which the window of 2048 positions has been full once."""


@dataclass(frozen=True)
class Spoken:
    """One turn: the time to first audio and to the first audible sample, the CPU time until the first audio, and the
    positions computed."""

    ttfa_ms: float
    audible_ttfa_ms: float
    cpu_ms: float
    positions: int


def converse(library: Synthesizer, way: str, turns: int, user: Segment) -> list[Spoken]:
    said: list[Segment] = []
    name, spoken = f"{way}-{time.monotonic_ns()}", list[Spoken]()
    counts = library.core.statistics
    for number in range(turns):
        text = TEXTS[number % len(TEXTS)]
        context = {"SESSION": [user], "CONTEXT": [*said, user], "without": []}[way]
        session = name if way == "SESSION" else None
        before, cpu_s, recording, first_s = counts.prefilled, time.process_time(), Recording(), None
        for chunk in library.stream(text, context=context, session=session, max_audio_ms=SPOKEN_MS, seed=number):
            recording.add(chunk)
            first_s = first_s or time.process_time()
        speech = recording.speech()
        assert speech.ttfa_s is not None
        assert speech.audible_ttfa_s is not None
        assert first_s is not None
        assert way != "SESSION" or speech.session_turns or not number
        ttfa_ms, audible_ttfa_ms, cpu_ms = (
            each * 1000 for each in (speech.ttfa_s, speech.audible_ttfa_s, first_s - cpu_s)
        )
        spoken.append(Spoken(ttfa_ms, audible_ttfa_ms, cpu_ms, counts.prefilled - before))
        said += [user, Segment(text, 0, speech.audio)]
    if way == "SESSION":
        library.speak("", session=name, session_end=1)
    return spoken


def measured(library: Synthesizer, rounds: int) -> dict[str, Any]:
    talks: dict[str, list[list[Spoken]]] = {way: [] for way in WAYS}
    user = Segment(TEXTS[0], 1, library.speak(TEXTS[0], max_audio_ms=SPOKEN_MS, seed=1))
    for _ in range(rounds):
        for way in WAYS:
            talks[way].append(converse(library, way, TURNS, user))
    long = [converse(library, "SESSION", WINDOW_TURNS, user) for _ in range(rounds)]
    trimmed = max(range(TURNS, WINDOW_TURNS), key=lambda turn: long[0][turn].positions)
    figures: dict[str, Any] = {"rounds": rounds}
    for quantity in ("ttfa_ms", "audible_ttfa_ms", "cpu_ms"):
        runs = {way: [[getattr(turn, quantity) for turn in talk] for talk in talks[way]] for way in WAYS}
        later = [[getattr(turn, quantity) for turn in talk] for talk in long]
        pairs = list(zip(runs["CONTEXT"], runs["SESSION"], strict=True))
        figures[quantity] = {
            **{way: [median(turn, 1) for turn in zip(*runs[way], strict=True)] for way in WAYS},
            "turn_10_to_turn_2": {way: median([run[9] / run[1] for run in runs[way]], 2) for way in WAYS},
            "context_to_session_at_turn_10": median([context[9] / session[9] for context, session in pairs], 2),
            "trimming_turn": median([run[trimmed] for run in later], 1),
            "turn_before_it": median([run[trimmed - 1] for run in later], 1),
        }
    # Later rounds find the first one's blocks.
    figures["computed_positions"] = {way: [turn.positions for turn in talks[way][0]] for way in WAYS}
    return {**figures, "trimming": {"turn": trimmed + 1, "computed_positions": long[0][trimmed].positions}}


def median(values: Iterable[float], digits: int) -> float:
    return round(statistics.median(values), digits)


class SimulatedTurn(Caller):
    """A call with a prompt of its own, on the server of a cost table."""

    def __init__(self, order: Order, server: Server) -> None:
        self._order = order
        super().__init__(Call(0, 0.0, SpeechRequest("text"), "listens", math.inf), server)

    def _make_utterance(self, call: Call) -> Utterance:
        return Utterance(self._order)


def simulated(turns: int = TURNS) -> dict[str, Any]:
    """Return the same for the 8B model on an H100 without other callers."""
    costs = floor(GPUS["h100"]).slower_device(PLANNED_TIMES)
    frames = SPOKEN_MS // FRAME_MS
    rows = np.random.default_rng(0).integers(1, 2**30, (WINDOW_TURNS + 1, 200, 2), dtype=np.int32)
    voice, end = rows[WINDOW_TURNS, :VOICE_POSITIONS], np.zeros((1, 2), np.int32)
    figures: dict[str, Any] = {"costs": costs.label, "ttfa_ms": {}, "computed_positions": {}}
    for way in WAYS:
        server, said = Server(costs, Limits()), list[np.ndarray]()
        ttfa, computed = [], []
        for number in range(turns):
            text = rows[number, :TEXT_POSITIONS]
            user = rows[number, TEXT_POSITIONS : 2 * TEXT_POSITIONS + frames + 1]
            new = {"SESSION": [user, text], "CONTEXT": [*said, user, text], "without": [text]}[way]
            prompt = np.concatenate([voice, *new])
            order = Order(prompt, frames, number, session=way if way == "SESSION" else None, voice=len(voice))
            before = server.generate.core.statistics.prefilled
            turn = SimulatedTurn(order, server)
            turn.send()
            server.environment.run()
            ttfa.append(round((turn.answer.arrivals[0].at_s - turn.answer.sent_s) * 1000, 1))
            computed.append(server.generate.core.statistics.prefilled - before)
            said += [user, text, rows[number, -frames:], end]
        figures["ttfa_ms"][way], figures["computed_positions"][way] = ttfa, computed
    figures["turn_10_to_turn_2"] = {way: round(ttfa[9] / ttfa[1], 2) for way, ttfa in figures["ttfa_ms"].items()}
    ttfa = figures["ttfa_ms"]
    figures["context_to_session_at_turn_10"] = round(ttfa["CONTEXT"][9] / ttfa["SESSION"][9], 2)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Conversations by turn.")
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"model": options.model.name, "simulated_8b": simulated()}
    print(figures["simulated_8b"], flush=True)
    with Synthesizer.load(options.model) as library:
        figures["measured"] = measured(library, options.rounds)
    print(save("sessions", figures))


if __name__ == "__main__":
    main()
