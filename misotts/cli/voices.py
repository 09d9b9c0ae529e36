"""The commands `misotts voices add`, `list` and `remove`."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Annotated, Optional

import typer

from misotts.config import SAMPLE_RATE
from misotts_client.errors import FieldError, MisoError

app = typer.Typer(help="Add, list and remove voices; a running server notices.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Option("--voices", envvar="MISOTTS_VOICES", exists=True, file_okay=False, help="Folder of voices.")
]
Name = Annotated[str, typer.Argument(help="What requests call the voice: 1 to 64 of a-z, 0-9, _ and -.")]
Clip = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="1 to 30 s of one person's speech.")]
TextFile = Annotated[
    Optional[typer.FileText],  # noqa: UP045
    typer.Option(encoding="utf-8", errors="surrogateescape", help="File of the clip's words; - is standard input."),
]


@app.command()
def add(
    name: Name,
    clip: Clip,
    voices: Folder,
    text: Annotated[Optional[str], typer.Option(help="The clip's words.")] = None,  # noqa: UP045
    text_file: TextFile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a voice of that name.")] = False,
) -> None:
    """Add the voice NAME, made of CLIP and the words spoken in it."""
    from misotts.prompt.voices import add_voice

    if (text is None) == (text_file is None):
        raise typer.BadParameter("the clip's words come by --text or by --text-file")
    words = text_file.read() if text_file else text or ""
    try:
        segment = add_voice(voices, name, clip, words, replace)
    except (MisoError, OSError) as error:
        _fail(error)
    typer.echo(f"added {name}, {len(segment.audio) / SAMPLE_RATE:.2f} s")


@app.command("list")
def list_voices(voices: Folder) -> None:
    """Print every voice with its length and words, or with what is wrong with it: then the exit status is 1."""
    from misotts.prompt.voices import Voices

    registered = Voices(voices)
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
            typer.echo(f"{name!r:20}  error: {error.message}")  # quoted: it may be no voice's name, or no printable one
    if broken:
        raise typer.Exit(1)


@app.command()
def remove(name: Name, voices: Folder) -> None:
    """Remove the voice NAME. Speech that has begun with it goes on."""
    from misotts.prompt.voices import remove_voice

    try:
        remove_voice(voices, name)
    except (MisoError, OSError) as error:
        _fail(error)
    typer.echo(f"removed {name}")


def _fail(error: Exception) -> None:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(1)
