"""The command `misotts bench sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.options import (
    Chars,
    ChunkFrames,
    Continuity,
    JsonOutput,
    MaxMsPerChar,
    Model,
    ReadyPort,
    Seconds,
    TtfaP95,
    Url,
)
from misotts.cli.errors import one_line_errors


def sweep(
    ttfa_p95_ms: TtfaP95 = 200.0,
    continuity: Continuity = 0.999,
    rate: Annotated[float, typer.Option(min=0.001, help="Calls per second at which the search begins.")] = 0.5,
    seconds: Seconds = 30.0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs at each rate, judged together.")] = 2,
    precision: Annotated[
        float, typer.Option(min=0.01, max=1, help="Largest relative distance between the two ends of the search.")
    ] = 0.1,
    chars: Chars = 60,
    max_ms_per_char: MaxMsPerChar = 70.0,
    chunk_frames: ChunkFrames = 0,
    seed: Annotated[int, typer.Option(help="Seed of the first run at each rate; the next runs count up.")] = 0,
    url: Url = None,
    ready_port: ReadyPort = 8003,
    model: Model = Path("models/random"),
    output: JsonOutput = Path("out/sweep.json"),
) -> None:
    """Find the largest open-loop load for which a server holds an objective."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks.load.command import target
    from benchmarks.load.plan import Load
    from benchmarks.load.report import figure, progress, share, show_faults
    from benchmarks.record import record, write
    from benchmarks.sweep.knee import Objective
    from benchmarks.sweep.measure import Sweep, on_server
    from benchmarks.sweep.measure import sweep as run
    from misotts_client.errors import MisoError

    objective = Objective(ttfa_p95_ms, continuity)
    load = Load(
        rate=rate, seconds=seconds, chars=chars, max_ms_per_char=max_ms_per_char, chunk_frames=chunk_frames, seed=seed
    )
    console = Console()

    def verdict(point: dict[str, Any]) -> str:
        return (", ".join(point["misses"]) or "holds") + (", not valid" if point["why_invalid"] else "")

    def show_point(point: dict[str, Any]) -> None:
        console.print(f"{figure(point['rate'])} calls per s: {verdict(point)}", highlight=False)

    with (
        one_line_errors(MisoError, RuntimeError),
        target(url, ready_port, model) as server,
        progress(seconds, console) as show,
    ):
        result = record(run(Sweep(objective, load, repeats, precision), on_server(server, show), show_point))
    table = Table("calls per s", "TTFA p50, ms", "TTFA p95, ms", "continuity", "audio, s per s", "other cores", "")
    for point in result["points"]:
        ttfa, others = point["ttfa_ms"], point["other_cores"]
        figures = (point["rate"], ttfa["p50"], ttfa["p95"])
        last = (figure(point["audio_s_per_s"]), "-" if others is None else figure(others), verdict(point))
        table.add_row(*map(figure, figures), share(point["continuity"]), *last)
    console.print(table)
    holds = result["knee"]["holds"]
    best = "no rate that was tried holds" if holds is None else f"{holds:.3g} calls per s hold"
    console.print(f"{objective}: {best}", highlight=False)
    show_faults(result["why_invalid"], console)
    typer.echo(write(output, result))
    if not result["valid"]:
        raise typer.Exit(3)
