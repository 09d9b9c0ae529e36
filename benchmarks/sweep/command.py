"""The command `misotts bench sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import options
from misotts.cli.errors import one_line_errors

RATES = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32)


def sweep(
    rate: Annotated[
        list[float] | None, typer.Option(min=0.001, help="Calls per second; may be repeated. Default: 1 to 32.")
    ] = None,
    ttfa_p95_ms: Annotated[
        float | None,
        typer.Option(min=1, help="A rate with a larger p95 of the TTFA is not promoted either."),
    ] = None,
    seconds: options.Seconds = 30.0,
    warm_up_s: Annotated[
        float, typer.Option(min=0, help="Time before that in which calls come at the same rate and do not count.")
    ] = 10.0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs at each rate, each with other calls, judged together.")] = 3,
    chars: options.Chars = 60,
    max_ms_per_char: options.MaxMsPerChar = 70.0,
    chunk_frames: options.ChunkFrames = 0,
    seed: Annotated[int, typer.Option(help="Seed of the first run at each rate; the next runs count up.")] = 0,
    url: options.Url = None,
    http_model: options.HttpModel = "tts-1",
    http_voice: options.HttpVoice = "alloy",
    http_body: options.HttpBody = "{}",
    ready_port: options.ReadyPort = 8003,
    model: options.Model = Path("models/random"),
    output: options.JsonOutput = Path("out/sweep.json"),
) -> None:
    """Promote rates of calls, lowest first, as long as no call fails and none has an underrun.

    Calls come at random (Poisson), independent of earlier ones: the rules of nari-labs' tts_bench.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from benchmarks.load.command import openai_server, target
    from benchmarks.load.plan import Load
    from benchmarks.load.report import figure, percentile, progress, show_faults
    from benchmarks.record import record, write
    from benchmarks.sweep.knee import Objective
    from benchmarks.sweep.measure import Sweep, climb, on_server
    from misotts_client.errors import MisoError

    plan = Sweep(
        Objective(ttfa_p95_ms, continuity=1.0),
        # Callers as they are, with the server's own bound of their lead.
        Load(
            seconds=seconds,
            warm_up_s=warm_up_s,
            rate=1.0,
            chars=chars,
            max_ms_per_char=max_ms_per_char,
            chunk_frames=chunk_frames,
            lead_ms=None,
            seed=seed,
        ),
        repeats,
    )
    http = openai_server(url, http_model, http_voice, http_body)
    console = Console()

    def verdict(point: dict[str, Any]) -> str:
        return (", ".join(point["misses"]) or "promoted") + (", not valid" if point["why_invalid"] else "")

    def show_point(point: dict[str, Any]) -> None:
        console.print(f"{figure(point['rate'])} calls per s: {verdict(point)}", highlight=False)

    with (
        one_line_errors(MisoError, RuntimeError),
        target(url, ready_port, model, http=http) as server,
        progress(warm_up_s + seconds, console) as show,
    ):
        result = record(climb(plan, rate or RATES, on_server(server, show), show_point))
    columns = {
        "TTFA p50, ms": ("ttfa_ms", "p50"),
        "TTFA p95, ms": ("ttfa_ms", "p95"),
        "audible p95, ms": ("audible_ttfa_ms", "p95"),
        "silence p50, ms": ("leading_silence_ms", "p50"),
        "underrun max, s": ("underrun_s", "max"),
        "sent late p99, ms": ("sent_late_ms", "p99"),
    }
    # As narrow as a terminal of 80 columns, so that no figure is cut.
    table = Table("calls per s", "calls", *columns, "audio, s per s", box=SIMPLE, padding=(0, 0))
    for point in result["points"]:
        figures = [percentile(point, *place) for place in columns.values()]
        table.add_row(figure(point["rate"]), str(point["calls"]), *figures, figure(point["audio_s_per_s"]))
    console.print(table)
    holds = result["knee"]["holds"]
    best = "no rate is promoted" if holds is None else f"{holds:.3g} calls per s are promoted"
    console.print(f"{plan.objective}: {best}", highlight=False)
    show_faults(result["why_invalid"], console)
    typer.echo(write(output, result))
    if not result["valid"]:
        raise typer.Exit(3)
