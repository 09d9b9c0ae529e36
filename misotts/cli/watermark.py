"""The command `misotts watermark check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(help="Look for the watermark in audio.", no_args_is_help=True)

NOT_THIS_KEY, NO_MARK = 3, 4
"""Exit statuses, besides 0 for a mark of this key, 1 for an error and 2 for a wrong command line."""


@app.callback()
def watermark() -> None:
    """Look for the watermark in audio."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="wav, flac, mp3 or ogg, any rate, any part of a recording.")],
    model: Annotated[Path, typer.Option(envvar="MISOTTS_MODEL", help="Model folder.")] = Path("models/demo"),
    watermark_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File with the watermark's key, ten hexadecimal digits; or set MISOTTS_WATERMARK_KEY."),
    ] = None,
    allow_reference_key: Annotated[bool, typer.Option(help="Look for MisoTTS's published key.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All figures, as one JSON object.")] = False,
) -> None:
    """Say whether FILE is marked, and by this key.

    Exit status: 0 marked with this key, 3 marked but not shown to be with this key, 4 no mark found, 1 the file or the
    key cannot be used.
    """
    from misotts.watermark.detector import AudioFileError, Detector, check_file
    from misotts.watermark.key import REFERENCE_KEY, WatermarkKeyError, read_key
    from misotts.watermark.silentcipher import SilentCipherError

    try:
        key = REFERENCE_KEY if allow_reference_key else read_key(watermark_key_file)
        verdict = check_file(file, Detector(model), key)
    except (WatermarkKeyError, SilentCipherError, AudioFileError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if verdict.key_matches:
        words = f"marked with this key (a random key would pass for it with probability {verdict.false_positive:.0e})"
    elif verdict.other_key:
        words = "marked with another key"
    elif verdict.marked:
        words = "marked, too faintly to tell with which key"
    else:
        words = "no mark found"
    if as_json:
        found = {"marked": verdict.marked, "key_matches": verdict.key_matches}
        typer.echo(json.dumps(found | asdict(verdict)))
    else:
        typer.echo(f"{file}: {words}; {verdict.agreement:.0%} of the columns agree, {verdict.seconds:.1f} s")
    raise typer.Exit(0 if verdict.key_matches else NOT_THIS_KEY if verdict.marked else NO_MARK)
