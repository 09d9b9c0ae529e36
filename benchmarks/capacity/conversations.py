"""How many conversations the memory of a GPU holds, and what it costs when one was evicted.

A conversation keeps its KV blocks until others need them; the least recently used ones go first. The sizes follow from
the turns by the server's own rule for windows that are full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.capacity.simulate import VOICE_POSITIONS
from benchmarks.capacity.traffic import MS_PER_CHAR, Traffic
from benchmarks.costs.floors import MISOTTS_8B
from benchmarks.costs.table import CostTable
from misotts.config import FRAME_MS
from misotts.engines.interface import Limits
from misotts.generate.conversation import newest

WINDOW = MISOTTS_8B.max_seq_len


@dataclass(frozen=True)
class Conversations:
    """The conversations of callers: in each turn the user speaks, and the audio is sent as CONTEXT."""

    turns: int
    user_s: float

    def figures(self, traffic: Traffic, costs: CostTable, streams: float) -> dict[str, Any]:
        """Return what a server of `costs` with `streams` streams keeps of conversations with the utterances of
        `traffic`.

        The mean is over the turns, because callers are in any of them. `think_s`: time between two utterances.
        """
        sizes, before = self._positions(traffic, costs)
        size = costs.block_size
        blocks = float(np.mean([-(-positions // size) for positions in sizes]))
        held = int((costs.kv_blocks - 1 - VOICE_POSITIONS // size) / blocks)
        again = [evicted_ms(costs, positions) for positions in before]
        return {
            "turns": self.turns,
            "user_s": self.user_s,
            "think_s": round(traffic.mean_utterance_s * (1 / traffic.talk_share - 1), 1),
            "mean_positions": round(float(np.mean(sizes))),
            "largest_positions": max(sizes),
            "held": held,
            "callers": round(streams / traffic.talk_share),
            "evicted_ms": {"mean": round(float(np.mean(again)), 1), "most": round(max(again), 1)},
        }

    def _positions(self, traffic: Traffic, costs: CostTable) -> tuple[list[int], list[int]]:
        """Return for each turn the positions behind the voice when it is over, and those of the turns before it."""
        speech = round(traffic.mean_utterance_s * 1000) // FRAME_MS
        user = round(self.user_s * 1000) // FRAME_MS + 1
        texts = [costs.prompt.positions(round(seconds * 1000 / MS_PER_CHAR)) for seconds in self._seconds(traffic)]
        own = user + sum(texts)
        sizes, before, said = [], [], list[np.ndarray]()
        for _ in range(self.turns):
            said = newest(said, WINDOW - VOICE_POSITIONS - own - speech, WINDOW)
            before.append(sum(map(len, said)))
            said.append(np.empty((own + speech + 1, 0), np.int32))
            sizes.append(before[-1] + len(said[-1]))
        return sizes, before

    def _seconds(self, traffic: Traffic) -> tuple[float, float]:
        return self.user_s, traffic.mean_utterance_s


def evicted_ms(costs: CostTable, positions: int) -> float:
    """Return the time of the device for computing `positions` anew, in prefill chunks of a whole step."""
    whole, rest = divmod(positions, Limits().step_positions)
    return whole * costs.prefill.at(Limits().step_positions) + (costs.prefill.at(rest) if rest else 0.0)


def in_words(figures: dict[str, Any]) -> str:
    cost = figures["evicted_ms"]
    return (
        f"conversations of {figures['turns']} turns, {figures['think_s']:g} s between two utterances,"
        f" {figures['user_s']:g} s of the user's audio a turn: {figures['mean_positions']} positions each"
        f" (at most {figures['largest_positions']}); the KV pool of a GPU keeps {figures['held']:,} of them, and its"
        f" streams are those of {figures['callers']:,} callers."
        f" A turn with evicted blocks takes the device {cost['mean']:g} ms more (at most {cost['most']:g} ms)."
    )
