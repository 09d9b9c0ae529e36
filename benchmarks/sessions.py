"""Ten-turn conversations: time to first audio and positions computed by turn, with SESSION, with CONTEXT, without.

    python -m benchmarks.sessions --model models/demo

In each turn the user speaks for 3 s and the server answers with 3 s of speech. The three ways take turns on one server;
the figures are medians over the rounds. A longer conversation shows what the turn costs for which the window is
trimmed. The 8B model is simulated on the floor model of an H100 (`misotts capacity`), without the encoding of audio.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
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
from misotts.serve.local import RunningServer, running_server
from misotts_client import Client, Segment, SpeechRequest

WAYS = ("SESSION", "CONTEXT", "without")
TURNS, SPOKEN_MS = 10, 3_000
REPORT_S = 0.7
"""The stages report twice a second."""
TEXTS = (
    "The kettle is on, and the tea will be ready soon.",
    "We could walk to the river before it gets dark.",
    "I have put the letters on the table by the door.",
)
"""About 3 s of speech each."""
TEXT_POSITIONS = 18
WINDOW_TURNS = 25
"""Turns after which the window of 2048 positions has been full once."""


def converse(client: Client, way: str, turns: int, user: Segment, computed: Callable[[], float] | None) -> list[Any]:
    """Return the time to first audio in ms of each turn and, where `computed` is given, the positions computed."""
    said: list[Segment] = []
    name, figures = f"{way}-{time.monotonic_ns()}", list[Any]()
    for number in range(turns):
        text = TEXTS[number % len(TEXTS)]
        context = {"SESSION": [user], "CONTEXT": [*said, user], "without": []}[way]
        session = name if way == "SESSION" else None
        before = computed() if computed else 0.0
        speech = client.speak(text, context=context, session=session, max_audio_ms=SPOKEN_MS, seed=number)
        assert speech.ttfa_s is not None
        assert way != "SESSION" or speech.session_turns or not number
        figures.append((round(speech.ttfa_s * 1000, 1), round(computed() - before) if computed else None))
        said += [user, Segment(text, 0, speech.audio)]
    if way == "SESSION":
        client.speak("", session=name, session_end=1)
    return figures


def measured(server: RunningServer, rounds: int) -> dict[str, Any]:
    def computed() -> float:
        time.sleep(REPORT_S)
        return server.metrics()["misotts_generate_prefilled_positions_total"]

    times: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    positions: dict[str, list[int]] = {}
    with Client(server.url) as client:
        speech = client.speak(TEXTS[0], max_audio_ms=SPOKEN_MS, seed=1)
        user = Segment(TEXTS[0], 1, speech.audio)
        for number in range(rounds):
            for way in WAYS:
                turns = converse(client, way, TURNS, user, None if number else computed)
                times[way].append([ttfa for ttfa, _ in turns])
                if not number:
                    positions[way] = [count for _, count in turns]
                print(way, turns, flush=True)
        long = converse(client, "SESSION", WINDOW_TURNS, user, computed)
    medians = {
        way: [round(statistics.median(turn), 1) for turn in zip(*runs, strict=True)] for way, runs in times.items()
    }
    trimmed = max(range(TURNS, WINDOW_TURNS), key=lambda turn: long[turn][1])
    return {
        "rounds": rounds,
        "ttfa_ms": medians,
        "computed_positions": positions,
        "turn_10_to_turn_2": {way: round(ttfa[9] / ttfa[1], 2) for way, ttfa in medians.items()},
        "context_to_session_at_turn_10": ratio(times, 9),
        "trimming": {"turn": trimmed + 1, "ttfa_ms": long[trimmed][0], "computed_positions": long[trimmed][1]},
    }


def ratio(times: dict[str, list[list[float]]], turn: int) -> float:
    """Return CONTEXT's time to first audio over SESSION's, a median over pairs of neighbours in time."""
    pairs = zip(times["CONTEXT"], times["SESSION"], strict=True)
    return round(statistics.median(context[turn] / session[turn] for context, session in pairs), 2)


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
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"model": options.model.name, "simulated_8b": simulated()}
    print(figures["simulated_8b"], flush=True)
    with running_server(options.model) as server:
        figures["measured"] = measured(server, options.rounds)
    print(save("sessions", figures))


if __name__ == "__main__":
    main()
