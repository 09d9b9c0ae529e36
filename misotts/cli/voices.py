"""The commands `misotts voices add`, `list` and `remove`."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer

from misotts.cli.errors import one_line_errors
from misotts.cli.options import VOICES_ENV, VOICES_HELP
from misotts.config import SAMPLE_RATE
from misotts_client.errors import FieldError, MisoError

app = typer.Typer(
    help="Add, list and remove voices. A running server uses the changed folder at once.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Option("--voices", envvar=VOICES_ENV, exists=True, file_okay=False, help=VOICES_HELP)]
Name = Annotated[str, typer.Argument(help="Name of the voice in requests: 1 to 64 of a-z, 0-9, _ and -.")]
Clip = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Audio file: 1 to 30 s of one speaker.")]
TextFile = Annotated[
    typer.FileText | None,
    typer.Option(
        encoding="utf-8", errors="surrogateescape", help="File with the words of the clip; - reads standard input."
    ),
]


@app.command()
def add(
    name: Name,
    clip: Clip,
    voices: Folder,
    text: Annotated[str | None, typer.Option(help="The words of the clip.")] = None,
    text_file: TextFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing voice of this name.")] = False,
) -> None:
    """Add the voice NAME from CLIP and the words that are spoken in it."""
    from misotts.prompt.voices import add_voice

    if (text is None) == (text_file is None):
        raise typer.BadParameter("give the words of the clip with either --text or --text-file")
    words = text_file.read() if text_file else text or ""
    with one_line_errors(MisoError, OSError):
        segment = add_voice(voices, name, clip, words, replace)
    typer.echo(f"added {name}, {len(segment.audio) / SAMPLE_RATE:.2f} s")


@app.command("list")
def list_voices(voices: Folder) -> None:
    """Print the length and the words of every voice.

    For a voice that cannot be used it prints the reason, and exits with status 1.
    """
    from misotts.prompt.voices import Voices

    registered = Voices(voices)
    with one_line_errors(OSError):
        names = registered.names()
    if not names:
        typer.echo(f"no voices in {voices}", err=True)
    broken = False
    for name in names:
        try:
            segment = registered.segment(name, speaker=0)
            words = shorten(segment.text, 80, placeholder=" ...")
            typer.echo(f"{name:20}  {len(segment.audio) / SAMPLE_RATE:5.2f} s  {words}")
        except FieldError as error:
            broken = True
            typer.echo(f"{name!r:20}  error: {error.message}")  # repr: the name may hold control characters
    if broken:
        raise typer.Exit(1)


@app.command()
def remove(name: Name, voices: Folder) -> None:
    """Remove the voice NAME. Utterances that have begun with it continue."""
    from misotts.prompt.voices import remove_voice

    with one_line_errors(MisoError, OSError):
        remove_voice(voices, name)
    typer.echo(f"removed {name}")
