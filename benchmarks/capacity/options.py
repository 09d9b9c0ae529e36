"""The options of a plan: a way to serve, the same with other assumptions, and changes to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from benchmarks.capacity.planner import Option
from benchmarks.costs.gpus import GPUS, NoSuchPrecisionError, floor
from benchmarks.costs.table import CostTable
from misotts.hold_back import HoldBack

FLOOR_TIMES = (1.0, 1.5, 2.0)
"""Multiples of the floor that span what engines reach; no engine reaches the floor itself."""
PLANNED_TIMES = 1.5
"""The multiple of a plan and of its changes."""
BIGGER = {"l40s": "h100", "a100": "h100", "h100": "h200", "h200": "b200"}
CHUNKS = (1, 4)


def of_gpu(gpu: str, fp8: bool = False) -> tuple[list[Option], list[Option]]:
    """Return a GPU that was not measured (the plan's option first, then other multiples of its floor), and changes.

    Raises:
        NoSuchPrecisionError: FP8 on a GPU without it.
    """
    plan, *others = [_times(gpu, fp8, times) for times in (PLANNED_TIMES, *FLOOR_TIMES)]
    bases = [plan, *(option for option in others if option.costs != plan.costs)]
    changes = _chunks(plan)
    if not fp8:
        with suppress(NoSuchPrecisionError):
            changes.insert(0, replace(_times(gpu, True, PLANNED_TIMES), name="FP8 weights"))
    if bigger := BIGGER.get(gpu):
        changes.append(replace(_times(bigger, fp8, PLANNED_TIMES), name=GPUS[bigger].name))
    return bases, changes


def of_table(costs: CostTable) -> tuple[list[Option], list[Option]]:
    """Return a cost table as it is, and other chunks, the only change that was measured too."""
    plan = Option(costs.name, costs, gpu="")
    return [plan], _chunks(plan)


def held_back(options: Sequence[Option]) -> list[Option]:
    """Return those of the options in which a stream starts at once, as if everything were held back from its start."""
    return [
        replace(
            option,
            name=f"{option.name}, all held back",
            costs=replace(option.costs, hold_back=HoldBack(option.costs.hold_back.frames)),
        )
        for option in options
        if option.costs.hold_back.every > 1
    ]


def _times(gpu: str, fp8: bool, times: float) -> Option:
    costs = floor(GPUS[gpu], fp8).slower_device(times)
    return Option(f"{GPUS[gpu].name}{', FP8' if fp8 else ''}, {times:g} x floor", costs, gpu)


def _chunks(plan: Option) -> list[Option]:
    return [replace(plan, name=f"chunks of {frames}", chunk_frames=frames) for frames in CHUNKS]
