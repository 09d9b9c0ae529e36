"""A server of constant costs for the capacity simulator, with figures that can be worked out by hand."""

from benchmarks.costs.table import CostTable, Grid, Line, PromptCost
from misotts.engines.interface import Limits
from misotts.hold_back import HoldBack

STEP, DECODE, WATERMARK, PROMPT, HOP, SEND, NETWORK = 20.0, 3.0, 4.0, 1.0, 2.0, 0.5, 10.0
HOLD_BACK = 5
LIMITS = Limits(max_streams=8, max_waiting=8)


def flat(ms: float) -> Grid:
    return Grid([1, 64], [1, 4096], [[ms, ms], [ms, ms]])


def growing(per_stream: float) -> Grid:
    return Grid([1, 64], [1, 4096], [[ms, ms] for ms in (STEP, STEP + 63 * per_stream)])


TABLE = CostTable(
    name="constant",
    source="measured",
    step=flat(STEP),
    prefill=Line([1, 1001], [0.0, 0.0]),
    decode=flat(DECODE),
    watermark=flat(WATERMARK),
    prompt=PromptCost(PROMPT, 0.25, 6),
    hop_ms=HOP,
    send_ms=SEND,
    network_ms=NETWORK,
    speed_when_busy=[1.0, 1.0, 1.0],
    overlaps=False,
    hold_back=HoldBack(HOLD_BACK),
    block_size=32,
    kv_blocks=500,
    date="2026-11-23T00:00:00+00:00",
)
LONE = 2 * NETWORK + 5 * HOP + PROMPT + (HOLD_BACK + 1) * STEP + DECODE + WATERMARK
"""Time to first audio of a single caller, in ms."""
