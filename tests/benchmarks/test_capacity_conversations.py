"""The planner's number of conversations, against the server's own core on a pool of that size."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from benchmarks.capacity.conversations import Conversations, evicted_ms, in_words
from benchmarks.capacity.simulate import VOICE_POSITIONS, Server
from benchmarks.capacity.traffic import Traffic
from benchmarks.sessions import SimulatedTurn
from misotts.engines.interface import Limits
from misotts.order import Order
from tests.support.constant_costs import TABLE

TRAFFIC = Traffic(100, 0.4, 3.0)
TURNS = 6


def computed_in_last_turns(conversations: int, positions: int, kv_blocks: int) -> float:
    """Return the positions computed by the last turn of each conversation, a mean: all have `TURNS` turns, in turns."""
    server, number = Server(replace(TABLE, kv_blocks=kv_blocks), Limits()), count(1)
    voice = np.full((VOICE_POSITIONS, 2), 2**30, np.int32)
    for _ in range(TURNS):
        before = server.generate.core.statistics.prefilled
        for name in range(conversations):
            own = np.full((positions - 11, 2), next(number), np.int32)
            order = Order(np.concatenate([voice, own]), 10, 0, session=str(name), voice=VOICE_POSITIONS)
            SimulatedTurn(order, server).send()
            server.environment.run()
    return (server.generate.core.statistics.prefilled - before) / conversations


def test_the_pool_keeps_as_many_conversations_as_the_plan_says() -> None:
    costs = replace(TABLE, kv_blocks=200)
    planned = Conversations(TURNS, 3.0)
    figures = planned.figures(TRAFFIC, costs, streams=4.0)
    own = figures["largest_positions"] // TURNS
    fits = int((costs.kv_blocks - 1 - VOICE_POSITIONS // 32) / (figures["largest_positions"] // 32 + 1))
    assert figures["held"] > fits > 3
    assert computed_in_last_turns(fits, own, costs.kv_blocks) <= own + 32
    assert computed_in_last_turns(2 * fits, own, costs.kv_blocks) > 4 * own
    assert figures["callers"] == 10
    assert figures["think_s"] == pytest.approx(1.5 * TRAFFIC.mean_utterance_s, abs=0.05)


def test_a_full_window_bounds_a_conversation(pinned_text: Callable[..., None]) -> None:
    figures = Conversations(100, 3.0).figures(TRAFFIC, TABLE, streams=4.0)
    assert figures["mean_positions"] < figures["largest_positions"] <= 2048 - VOICE_POSITIONS
    assert figures["evicted_ms"] == {"mean": 0.0, "most": 0.0}, "prefill costs nothing on the constant table"
    pinned_text(in_words(figures))


def test_an_eviction_costs_the_prefill_of_the_turns_before() -> None:
    costs = replace(TABLE, prefill=replace(TABLE.prefill, ms=[0.0, 10.0]))
    assert evicted_ms(costs, 0) == 0
    assert evicted_ms(costs, 512 + 101) == pytest.approx(5.11 + 1.0, abs=0.01)
