"""The commands `misotts watermark key` and `misotts watermark check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from misotts.cli.errors import one_line_errors
from misotts.cli.options import DEFAULT_MODEL, KeyFile, Model

if TYPE_CHECKING:
    from misotts.watermark.detector import Verdict

app = typer.Typer(help="Make the watermark's key, and look for the watermark in audio.", no_args_is_help=True)

STATUSES = {"this key": 0, "another key": 3, "no mark": 4, "cannot say": 5}
"""Exit status by finding, besides 1 for an error and 2 for a wrong command line."""


@app.command()
def key(file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")]) -> None:
    """Write a random watermark key to FILE, which its owner alone may read."""
    from misotts.watermark.key import write_random_key

    with one_line_errors(OSError):
        write_random_key(file)
    typer.echo(f"{file}: a new watermark key; keep it secret, and keep a copy: without it no mark can be shown")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Audio file (wav, flac, mp3, ogg): any rate, any part of a recording.")],
    model: Model = DEFAULT_MODEL,
    watermark_key_file: KeyFile = None,
    allow_reference_key: Annotated[bool, typer.Option(help="Look for the key that MisoTTS publishes.")] = False,
    search: Annotated[
        bool,
        typer.Option(help="Also try speeds from -5 % to +5 %, and mistaken sample rates. It takes 30 times as long."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")] = False,
) -> None:
    """Report whether FILE carries the watermark, and whether the mark is of this key.

    Exit status: 0 marked with this key, 3 marked with another key, 4 no mark found, 5 it cannot be said, 1 the file or
    the key cannot be used.
    """
    from misotts.audio_file import AudioFileError
    from misotts.watermark.detector import Detector, check_file
    from misotts.watermark.key import REFERENCE_KEY, WatermarkKeyError, is_weak, read_key
    from misotts.watermark.silentcipher import SilentCipherError

    with one_line_errors(WatermarkKeyError, SilentCipherError, AudioFileError, OSError):
        key = REFERENCE_KEY if allow_reference_key else read_key(watermark_key_file, allow_weak=True)
        verdict = check_file(file, Detector(model), key, search)
    if as_json:
        typer.echo(json.dumps(asdict(verdict)))
    else:
        weak = "; this key is weak: others may well have used it" if is_weak(key) and verdict.key_matches else ""
        typer.echo(f"{file}: {_words(verdict, search)}{weak}")
    raise typer.Exit(STATUSES[verdict.finding.value])


def _words(verdict: Verdict, searched: bool) -> str:
    """Return a verdict as a sentence."""
    from misotts.watermark.detector import Finding

    unmarked = f"at most {_one_in(verdict.unmarked)} recordings without a mark would seem so"
    speed = f", {verdict.seconds:.1f} s"
    if abs(verdict.speed - 1) > 5e-4:
        faster = "faster" if verdict.speed > 1 else "slower"
        speed += f", played {abs(verdict.speed - 1):.1%} {faster} than it was made"
    if verdict.finding is Finding.THIS_KEY:
        other = f"the chance that the mark is of another key is {_one_in(verdict.another_key)}"
        return f"marked with this key: {unmarked}, and {other}; {verdict.agreement:.0%} of the columns agree{speed}"
    if verdict.finding is Finding.ANOTHER_KEY:
        apart = "" if verdict.distance is None else f", which differs from this one in {verdict.distance} of 20 symbols"
        this = f"the chance that the mark is of this key is {_one_in(1 - verdict.another_key)}"
        return f"marked with another key{apart}: {unmarked}, and {this}{speed}"
    if verdict.finding is Finding.NO_MARK:
        return f"no mark found{'' if searched else ' at this speed (--search tries others)'}{speed}"
    return f"cannot say: {verdict.reason}{speed}"


def _one_in(probability: float) -> str:
    """Return a probability as words: `1 in 4,000`, with one significant digit."""
    if probability <= 1e-12:
        return "1 in 1,000,000,000,000"
    return f"1 in {int(float(f'{1 / probability:.0e}')):,}"
