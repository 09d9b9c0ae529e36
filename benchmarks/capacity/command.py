"""The command `misotts capacity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from benchmarks.outputs import json_file


def capacity(
    callers: Annotated[int, typer.Option(min=1, help="Callers on the line at the peak.")] = 2000,
    talk_share: Annotated[float, typer.Option(min=0.01, max=1, help="Of a caller's time in which we speak.")] = 0.4,
    utterance_s: Annotated[float, typer.Option(min=0.5, max=40, help="Median length of an utterance, s.")] = 4.2,
    day: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            exists=True, dir_okay=False, help="JSON list of 24 numbers, calls by hour; by default an evening peak."
        ),
    ] = None,
    gpu: Annotated[str, typer.Option(help="From the floor model: l40s, a100, h100, h200 or b200.")] = "h100",
    fp8: Annotated[bool, typer.Option("--fp8", help="Weights in FP8 from the start.")] = False,
    costs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(exists=True, dir_okay=False, help="A cost table (benchmarks/capacity/cost.py) instead of a GPU."),
    ] = None,
    ttfa_p95_ms: Annotated[float, typer.Option(min=1, help="Objective: time to first audio, p95, at most.")] = 300.0,
    continuity: Annotated[float, typer.Option(min=0, max=1, help="Objective: share of calls without a gap.")] = 0.999,
    max_streams: Annotated[int, typer.Option(min=1, help="As in `misotts serve`.")] = 256,
    price: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Of a GPU and hour, such as h100=2.50; may be repeated. With --costs: the bare number."),
    ] = None,
    calls: Annotated[int, typer.Option(min=50, help="Calls that are judged at each rate.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same plan.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON file to write; a page goes beside it.", callback=json_file)
    ] = Path("out/capacity.json"),
) -> None:
    """Say how many GPUs a traffic needs, what if one dies, what a change buys, and what it costs."""
    from rich.console import Console

    from benchmarks.capacity.cost import CostError, read
    from benchmarks.capacity.floor import GPUS, NoSuchPrecisionError
    from benchmarks.capacity.options import of_gpu, of_table
    from benchmarks.capacity.page import write_page
    from benchmarks.capacity.plan import make_plan
    from benchmarks.capacity.planner import Planner
    from benchmarks.capacity.report import show_plan
    from benchmarks.capacity.traffic import EVENING, Traffic, read_day
    from benchmarks.record import record, write
    from benchmarks.sweep.objective import Objective

    console = Console()
    if gpu not in GPUS:
        raise typer.BadParameter(f"--gpu: known are {', '.join(GPUS)}, got {gpu}")
    try:
        traffic = Traffic(callers, talk_share, utterance_s, read_day(day) if day else EVENING)
        bases, changes = of_table(read(costs)) if costs else of_gpu(gpu, fp8)
    except (CostError, NoSuchPrecisionError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    prices = _prices(price or [], {option.gpu for option in (*bases, *changes)})
    with console.status("simulating") as status:
        planner = Planner(traffic, Objective(ttfa_p95_ms, continuity), max_streams, seed, calls, said=status.update)
        plan = record(make_plan(planner, bases, changes, prices))
    show_plan(plan, console)
    typer.echo(write(output, plan))
    typer.echo(write_page(output.with_suffix(".html"), plan))


def _prices(given: list[str], gpus: set[str]) -> dict[str, float]:
    """`h100=2.50` → {"h100": 2.5}; a bare number is the price of what has no name. `gpus`: names that the plan has."""
    prices = {}
    for each in given:
        name, _, number = each.rpartition("=")
        try:
            prices[name] = float(number)
        except ValueError:
            raise typer.BadParameter(f"--price: {each!r} is not like h100=2.50") from None
        if name not in gpus:
            known = ", ".join(f"{gpu}=..." if gpu else "a bare number" for gpu in sorted(gpus))
            raise typer.BadParameter(f"--price: {each!r} is of nothing in this plan, which takes {known}")
    return prices
