"""The command `misotts watermark check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from misotts.cli.errors import one_line_errors
from misotts.cli.options import DEFAULT_MODEL, KeyFile, Model

app = typer.Typer(help="Look for the watermark in audio.", no_args_is_help=True)

NOT_THIS_KEY, NO_MARK = 3, 4
"""Exit statuses, besides 0 for a mark of this key, 1 for an error and 2 for a wrong command line."""


@app.callback()
def watermark() -> None:
    """Look for the watermark in audio."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Audio file (wav, flac, mp3, ogg): any rate, any part of a recording.")],
    model: Model = DEFAULT_MODEL,
    watermark_key_file: KeyFile = None,
    allow_reference_key: Annotated[bool, typer.Option(help="Look for the key that MisoTTS publishes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")] = False,
) -> None:
    """Report whether FILE carries the watermark, and whether the mark is of this key.

    Exit status: 0 marked with this key, 3 marked but not shown to be with this key, 4 no mark found, 1 the file or the
    key cannot be used.
    """
    from misotts.audio_file import AudioFileError
    from misotts.watermark.detector import Detector, check_file
    from misotts.watermark.key import REFERENCE_KEY, WatermarkKeyError, read_key
    from misotts.watermark.silentcipher import SilentCipherError

    with one_line_errors(WatermarkKeyError, SilentCipherError, AudioFileError, OSError):
        key = REFERENCE_KEY if allow_reference_key else read_key(watermark_key_file)
        verdict = check_file(file, Detector(model), key)
    if verdict.key_matches:
        words = f"marked with this key (a random key would match with probability {verdict.false_positive:.0e})"
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
