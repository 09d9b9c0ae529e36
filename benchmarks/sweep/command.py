"""The command `misotts bench sweep`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from benchmarks.outputs import json_file


def sweep(
    ttfa_p95_ms: Annotated[float, typer.Option(min=1, help="Objective: time to first audio, p95, at most.")] = 200.0,
    continuity: Annotated[float, typer.Option(min=0, max=1, help="Objective: share of calls without a gap.")] = 0.999,
    rate: Annotated[float, typer.Option(min=0.001, help="Calls per second where the search begins.")] = 0.5,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long new calls are made in a run.")] = 30.0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs at each rate, judged together.")] = 2,
    precision: Annotated[float, typer.Option(min=0.01, max=1, help="How close the ends of the search get.")] = 0.1,
    chars: Annotated[int, typer.Option(min=10, max=1000, help="Median length of a text, in code points.")] = 60,
    max_ms_per_char: Annotated[float, typer.Option(min=1, help="As in `bench load`.")] = 70.0,
    chunk_frames: Annotated[int, typer.Option(min=0, max=25, help="Frames in a chunk; 0: the server's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the first run at each rate; the others count on from it.")] = 0,
    url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Host and gRPC port of a running server; left out, one is started here."),
    ] = None,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="With --url: where its metrics are.")] = 8002,
    model: Annotated[Path, typer.Option(help="Without --url: the model folder to serve.")] = Path("models/demo"),
    output: Annotated[
        Path, typer.Option("--output", "-o", callback=json_file, help="JSON to write, a page and a PNG beside it.")
    ] = Path("out/sweep.json"),
) -> None:
    """Find the largest open-loop load for which a server holds an objective."""
    from rich.console import Console

    from benchmarks.load.command import target
    from benchmarks.load.plan import Load
    from benchmarks.load.report import figure, progress, show_faults
    from benchmarks.record import record, write
    from benchmarks.sweep.measure import Sweep, on_server
    from benchmarks.sweep.measure import sweep as run
    from benchmarks.sweep.objective import Objective
    from benchmarks.sweep.page import write_page
    from misotts_client.errors import MisoError

    objective = Objective(ttfa_p95_ms, continuity)
    load = replace(
        Load.plain(rate=rate, seconds=seconds, seed=seed),
        chars=chars,
        max_ms_per_char=max_ms_per_char,
        chunk_frames=chunk_frames,
    )
    console = Console()

    def said(point: dict[str, Any]) -> None:
        doubt = ", not valid" if point["why_invalid"] else ""
        words = ", ".join(point["misses"]) or "holds"
        console.print(f"{figure(point['rate'])} calls per s: {words}{doubt}", highlight=False)

    try:
        with target(url, metrics_port, model) as server, progress(seconds, console) as show:
            result = record(run(Sweep(objective, load, repeats, precision), on_server(server, show), said))
    except (MisoError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    holds = result["knee"]["holds"]
    best = "no rate that was tried holds" if holds is None else f"{holds:.3g} calls per s hold"
    console.print(f"{objective}: {best}", highlight=False)
    show_faults(result["why_invalid"], console)
    typer.echo(write(output, result))
    typer.echo(write_page(output.with_suffix(".html"), result))
    if not result["valid"]:
        raise typer.Exit(3)
