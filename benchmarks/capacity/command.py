"""The command `misotts capacity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.options import Continuity, JsonOutput, TtfaP95


def capacity(
    callers: Annotated[int, typer.Option(min=1, help="Number of simultaneous callers at the peak.")] = 2000,
    talk_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a call in which the caller hears speech.")
    ] = 0.4,
    utterance_s: Annotated[float, typer.Option(min=0.5, max=40, help="Median length of an utterance, in s.")] = 4.2,
    day: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="JSON file with 24 numbers, calls by hour; by default an evening peak."
        ),
    ] = None,
    gpu: Annotated[str, typer.Option(help="GPU of the floor model: l40s, a100, h100, h200 or b200.")] = "h100",
    fp8: Annotated[bool, typer.Option("--fp8", help="Assume FP8 weights.")] = False,
    costs: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Cost table (see benchmarks/costs/table.py) instead of a GPU."),
    ] = None,
    ttfa_p95_ms: TtfaP95 = 300.0,
    continuity: Continuity = 0.999,
    max_streams: Annotated[int, typer.Option(min=1, help="Option of the planned servers.")] = 256,
    price: Annotated[
        list[str] | None,
        typer.Option(help="Price of a GPU-hour, such as h100=2.50; may be repeated. With --costs: a bare number."),
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="Turns of a conversation.")] = 10,
    user_s: Annotated[
        float, typer.Option(min=0.1, max=60, help="Audio of the user that comes with each turn as CONTEXT, in s.")
    ] = 3.0,
    calls: Annotated[int, typer.Option(min=50, help="Number of calls that are judged at each rate.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same plan.")] = 0,
    output: JsonOutput = Path("out/capacity.json"),
) -> None:
    """Report how many GPUs a traffic needs, what happens if one fails, what a change gains, and what it costs."""
    from rich.console import Console

    from benchmarks.capacity.conversations import Conversations
    from benchmarks.capacity.options import of_gpu, of_table
    from benchmarks.capacity.plan import make_plan, show_plan
    from benchmarks.capacity.planner import Planner
    from benchmarks.capacity.traffic import EVENING, Traffic, read_day
    from benchmarks.costs.gpus import GPUS
    from benchmarks.costs.table import read
    from benchmarks.record import record, write
    from benchmarks.sweep.knee import Objective

    console = Console()
    if gpu not in GPUS:
        raise typer.BadParameter(f"--gpu: must be one of {', '.join(GPUS)}, got {gpu}")
    try:
        traffic = Traffic(callers, talk_share, utterance_s, read_day(day) if day else EVENING)
        bases, changes = of_table(read(costs)) if costs else of_gpu(gpu, fp8)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    prices = _prices(price or [], {option.gpu for option in (*bases, *changes)})
    with console.status("simulating") as status:
        planner = Planner(traffic, Objective(ttfa_p95_ms, continuity), max_streams, calls, seed, show=status.update)
        plan = record(make_plan(planner, bases, changes, prices, Conversations(turns, user_s)))
    show_plan(plan, console)
    typer.echo(write(output, plan))


def _prices(given: list[str], gpus: set[str]) -> dict[str, float]:
    """`h100=2.50` → {"h100": 2.5}; a bare number is the price of a cost table's GPU. `gpus`: names in the plan."""
    prices = {}
    for each in given:
        name, _, number = each.rpartition("=")
        try:
            prices[name] = float(number)
        except ValueError:
            raise typer.BadParameter(f"--price: must be like h100=2.50, got {each!r}") from None
        if name not in gpus:
            known = ", ".join(f"{gpu}=..." if gpu else "a bare number" for gpu in sorted(gpus))
            raise typer.BadParameter(f"--price: {each!r} is for no GPU of this plan, which takes {known}")
    return prices
