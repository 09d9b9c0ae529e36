"""Code that several commands share: options, the check of the output file, errors as exit status."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def output(suffix: str) -> Any:
    """An option `--output` for a file that ends in `suffix`; its folder is made.

    Raises:
        typer.BadParameter: the name has another ending, or the file cannot be written.
    """
    return typer.Option("--output", "-o", help=f"File to write; must end in {suffix}.", callback=_writable(suffix))


def _writable(suffix: str) -> Callable[[Path], Path]:
    def check(path: Path) -> Path:
        if path.suffix != suffix:
            raise typer.BadParameter(f"must end in {suffix}, got {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"cannot write {path}: {error}") from None
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise typer.BadParameter(f"cannot write {path}")
        return path

    return check


Url = Annotated[
    str | None,
    typer.Option(
        help="Host and gRPC port of a running server, or http://HOST:PORT of one with OpenAI's POST /v1/audio/speech; "
        "by default, a server is started."
    ),
]
HttpModel = Annotated[str, typer.Option(help="With an http:// URL: the name of the model.")]
HttpVoice = Annotated[str, typer.Option(help="With an http:// URL: the voice of calls that name none.")]
HttpBody = Annotated[str, typer.Option(help="With an http:// URL: a JSON object with further fields of every request.")]
ReadyPort = Annotated[int, typer.Option(min=1, max=65535, help="With --url: port of the server's /metrics.")]
Model = Annotated[Path, typer.Option(help="Model folder; without --url, the one to serve.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Time during which new calls are made.")]
Chars = Annotated[int, typer.Option(min=10, max=1000, help="Median length of a text, in code points.")]
MaxMsPerChar = Annotated[
    float, typer.Option(min=1, help="Longest audio per code point, in ms. Random weights always speak to this limit.")
]
ChunkFrames = Annotated[int, typer.Option(min=0, max=25, help="Frames of a chunk; 0 leaves it to the server.")]
TtfaP95 = Annotated[float, typer.Option(min=1, help="Objective: the largest p95 of the time to first audio.")]
Continuity = Annotated[float, typer.Option(min=0, max=1, help="Objective: the smallest share of calls without a gap.")]
JsonOutput = Annotated[Path, output(".json")]
