"""The commands `misotts bench load` and `misotts bench compare`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmarks import options
from misotts.cli.errors import one_line_errors

if TYPE_CHECKING:
    from benchmarks.load.measure import Target
    from benchmarks.load.openai import OpenAiServer

app = typer.Typer(help="Measure a server under load.", no_args_is_help=True)
Result = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JSON file of `misotts bench load`.")]


@app.command()
def load(
    streams: Annotated[
        int | None,
        typer.Option(min=1, help="Closed loop: number of callers, each with one call after another."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Open loop: calls per second, independent of earlier calls."),
    ] = None,
    arrivals: Annotated[
        Literal["poisson", "constant"], typer.Option(help="Open loop: distribution of the times between calls.")
    ] = "poisson",
    seconds: options.Seconds = 20.0,
    chars: options.Chars = 60,
    max_ms_per_char: options.MaxMsPerChar = 70.0,
    voice: Annotated[list[str] | None, typer.Option(help="Name of a voice; may be repeated.")] = None,
    voice_share: Annotated[float, typer.Option(min=0, max=1, help="Share of calls with one of the voices.")] = 0.5,
    cancel_share: Annotated[float, typer.Option(min=0, max=1, help="Share of callers that cancel midway.")] = 0.0,
    slow_share: Annotated[float, typer.Option(min=0, max=1, help="Share of callers that read too slowly.")] = 0.0,
    chunk_frames: options.ChunkFrames = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same calls.")] = 0,
    url: options.Url = None,
    http_model: options.HttpModel = "tts-1",
    http_voice: options.HttpVoice = "alloy",
    http_body: options.HttpBody = "{}",
    ready_port: options.ReadyPort = 8003,
    model: options.Model = Path("models/random"),
    voices: Annotated[Path | None, typer.Option(help="Without --url: folder of voices of the started server.")] = None,
    watermark_key_file: Annotated[
        Path | None,
        typer.Option(help="With --url: key of the server's watermark, which the detector of --model looks for."),
    ] = None,
    output: options.JsonOutput = Path("out/bench.json"),
) -> None:
    """Call a server as many callers would; report how soon, how steadily and how correctly it answers."""
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
        raise typer.BadParameter("give either --streams (closed loop) or --rate (open loop)")
    if cancel_share + slow_share > 1:
        raise typer.BadParameter(f"--cancel-share + --slow-share must be at most 1, got {cancel_share + slow_share:g}")
    if voice and not (url or voices):
        raise typer.BadParameter("--voice needs --url, or --voices for the server that is started")
    if voices and url:
        raise typer.BadParameter("--voices configures a server that is started; it cannot be given with --url")
    if watermark_key_file and not url:
        raise typer.BadParameter("--watermark-key-file needs --url; a server that is started has a random key")
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
    http = openai_server(url, http_model, http_voice, http_body)
    console = Console()
    with (
        one_line_errors(MisoError, RuntimeError, SilentCipherError, WatermarkKeyError),
        target(url, ready_port, model, voices, watermark_key_file, http) as server,
        progress(seconds, console) as show,
    ):
        result = record(measure(planned, server, show))
    show_result(result, console)
    typer.echo(write(output, result))
    typer.echo(write_page(output.with_suffix(".html"), (output.stem, result)))
    if sum(result["overall"]["errors"].values()) == result["overall"]["calls"]:
        typer.echo(f"error: {'every call failed' if result['overall']['calls'] else 'no call was due'}", err=True)
        raise typer.Exit(1)
    if not result["valid"]:
        raise typer.Exit(3)


@app.command()
def compare(
    first: Result, second: Result, output: Annotated[Path, options.output(".html")] = Path("out/compare.html")
) -> None:
    """Show two results of `misotts bench load` side by side, on the terminal and as a page."""
    from rich.console import Console

    from benchmarks.load.compare import read, show_comparison
    from benchmarks.load.page import write_page

    with one_line_errors(ValueError):
        one, two = read(first), read(second)
    show_comparison(one, two, (first.stem, second.stem), Console())
    typer.echo(write_page(output, (first.stem, one), (second.stem, two)))


def openai_server(url: str | None, model: str, voice: str, body: str) -> OpenAiServer | None:
    """Return the server at an http:// or https:// URL, with the key of the environment's OPENAI_API_KEY; None for
    another URL.

    Raises:
        typer.BadParameter: `body` is no JSON object.
    """
    from benchmarks.load.openai import OpenAiServer

    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise typer.BadParameter(f"--http-body: must be a JSON object, got {body}")
    if not url or not url.startswith(("http://", "https://")):
        return None
    return OpenAiServer(url.rstrip("/"), model, voice, os.environ.get("OPENAI_API_KEY", ""), fields)


@contextmanager
def target(
    url: str | None,
    ready_port: int,
    model: Path,
    voices: Path | None = None,
    key_file: Path | None = None,
    http: OpenAiServer | None = None,
) -> Iterator[Target]:
    """Yield the server at `url` or `http`, or one that is started for the block."""
    from benchmarks.load.measure import Target
    from misotts.serve.local import running_server
    from misotts.watermark.detector import Detector
    from misotts.watermark.key import REFERENCE_KEY, read_key, write_random_key

    if url:
        detector, key = (Detector(model), read_key(key_file)) if key_file else (None, REFERENCE_KEY)
        host = url.rpartition("://")[2].rpartition(":")[0]
        yield Target(url, f"http://{host}:{ready_port}/metrics", None, detector, key, http)
        return
    with TemporaryDirectory() as folder:
        write_random_key(file := Path(folder) / "key")
        serve = ["--no-allow-reference-key", f"--watermark-key-file={file}"]
        with running_server(model, *serve, *([f"--voices={voices}"] if voices else [])) as server:
            yield Target.of(server, Detector(model), read_key(file))
