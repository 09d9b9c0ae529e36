"""The commands `misotts bench load` and `misotts bench compare`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from benchmarks.outputs import html_file, json_file

if TYPE_CHECKING:
    from benchmarks.load.measure import Target

app = typer.Typer(help="Measure a server under load.", no_args_is_help=True)


@app.command()
def load(
    streams: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Closed loop: callers, who each call again when the last call has ended."),
    ] = None,
    rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.001, help="Open loop: calls per second, whether or not earlier ones have ended."),
    ] = None,
    arrivals: Annotated[Literal["poisson", "constant"], typer.Option(help="Open loop: how they come.")] = "poisson",
    seconds: Annotated[float, typer.Option(min=0.1, help="How long new calls are made.")] = 20.0,
    chars: Annotated[int, typer.Option(min=10, max=1000, help="Median length of a text, in code points.")] = 60,
    max_ms_per_char: Annotated[
        float, typer.Option(min=1, help="Longest audio per code point, in ms; random weights speak to the limit.")
    ] = 70.0,
    voice: Annotated[Optional[list[str]], typer.Option(help="Name of a voice; may be repeated.")] = None,  # noqa: UP045
    voice_share: Annotated[float, typer.Option(min=0, max=1, help="Share of calls with one of the voices.")] = 0.5,
    cancel_share: Annotated[float, typer.Option(min=0, max=1, help="Share of callers who hang up midway.")] = 0.0,
    slow_share: Annotated[float, typer.Option(min=0, max=1, help="Share of callers who read too slowly.")] = 0.0,
    chunk_frames: Annotated[int, typer.Option(min=0, max=25, help="Frames in a chunk; 0: the server's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same calls.")] = 0,
    url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Host and gRPC port of a running server; left out, one is started here and watched."),
    ] = None,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="With --url: where its metrics are.")] = 8002,
    model: Annotated[Path, typer.Option(help="Without --url: the model folder to serve.")] = Path("models/demo"),
    voices: Annotated[Optional[Path], typer.Option(help="Without --url: the folder of voices.")] = None,  # noqa: UP045
    watermark_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="With --url: the key whose watermark answers must carry, by --model's detector."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", callback=json_file, help="JSON file to write; a page goes beside it.")
    ] = Path("out/bench.json"),
) -> None:
    """Call a server as many callers would, and say how soon, how steadily and how right it answered."""
    from rich.console import Console

    from benchmarks.load.measure import measure
    from benchmarks.load.page import write_page
    from benchmarks.load.plan import Load
    from benchmarks.load.report import progress, show_result
    from benchmarks.record import record, write
    from misotts.watermark.key import WatermarkKeyError
    from misotts.watermark.silentcipher import SilentCipherError
    from misotts_client.errors import MisoError

    if (streams is None) == (rate is None):
        raise typer.BadParameter("say either --streams (closed loop) or --rate (open loop)")
    if cancel_share + slow_share > 1:
        raise typer.BadParameter(
            f"--cancel-share and --slow-share add up to {cancel_share + slow_share:g}: more than 1"
        )
    if voice and not (url or voices):
        raise typer.BadParameter("--voice needs --voices, the folder where the server that is started here finds it")
    if voices and url:
        raise typer.BadParameter("--voices is for a server that is started here, not for one at --url")
    if watermark_key_file and not url:
        raise typer.BadParameter("--watermark-key-file is for a server at --url; one that is started here has its own")
    planned = Load(
        streams=streams,
        rate=rate,
        arrivals=arrivals,
        seconds=seconds,
        chars=chars,
        max_ms_per_char=max_ms_per_char,
        voices=tuple(voice or ()),
        voice_share=voice_share,
        cancel_share=cancel_share,
        slow_share=slow_share,
        chunk_frames=chunk_frames,
        seed=seed,
    )
    console = Console()
    try:
        with (
            target(url, metrics_port, model, voices, watermark_key_file) as server,
            progress(seconds, console) as show,
        ):
            result = record(measure(planned, server, show))
    except (MisoError, RuntimeError, SilentCipherError, WatermarkKeyError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    show_result(result, console)
    typer.echo(write(output, result))
    typer.echo(write_page(output.with_suffix(".html"), (output.stem, result)))
    if sum(result["overall"]["errors"].values()) == result["overall"]["calls"]:
        typer.echo("error: every call failed", err=True)
        raise typer.Exit(1)
    if not result["valid"]:
        raise typer.Exit(3)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    second: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option("--output", "-o", callback=html_file, help="Page to write.")] = Path(
        "out/compare.html"
    ),
) -> None:
    """Show two results of `misotts bench load` side by side."""
    from rich.console import Console

    from benchmarks.load.compare import read, show_comparison
    from benchmarks.load.page import write_page

    try:
        one, two = read(first), read(second)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    show_comparison(one, two, (first.stem, second.stem), Console())
    typer.echo(write_page(output, (first.stem, one), (second.stem, two)))


@contextmanager
def target(
    url: str | None, metrics_port: int, model: Path, voices: Path | None = None, key_file: Path | None = None
) -> Iterator[Target]:
    """The server at `url`, or one of our own."""
    from benchmarks.load.measure import Target
    from misotts.serve.local import running_server
    from misotts.watermark.detector import Detector
    from misotts.watermark.key import read_key

    if url:
        metrics_url = f"http://{url.rpartition(':')[0]}:{metrics_port}/metrics"
        if key_file:
            yield Target(url, metrics_url, None, Detector(model), read_key(key_file))
        else:
            yield Target(url, metrics_url)
        return
    with running_server(model, *([f"--voices={voices}"] if voices else [])) as server:
        yield Target.of(server, Detector(model))
