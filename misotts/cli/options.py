"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_MODEL = Path("models/demo")
Model = Annotated[Path, typer.Option(envvar="MISOTTS_MODEL", help="Model folder.")]

VOICES_ENV = "MISOTTS_VOICES"
VOICES_HELP = "Folder of voices."
Voices = Annotated[Path | None, typer.Option(envvar=VOICES_ENV, help=VOICES_HELP)]


def port_option(meaning: str) -> Any:
    """Return the option of a TCP port."""
    return typer.Option(min=1, max=65535, help=meaning)


KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--watermark-key-file",
        help="File with the watermark key, ten hexadecimal digits. Without it, MISOTTS_WATERMARK_KEY holds the key.",
    ),
]
