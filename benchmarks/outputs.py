"""Where a command may write, found out before anything is measured."""

from __future__ import annotations

import os
from pathlib import Path

import typer


def json_file(path: Path) -> Path:
    """A result's file, beside which its page and plot get the same name; the folder is made.

    Raises:
        typer.BadParameter: it is not called .json, or cannot be written.
    """
    return _writable(path, ".json")


def html_file(path: Path) -> Path:
    """A page's file; the folder is made.

    Raises:
        typer.BadParameter: it is not called .html, or cannot be written.
    """
    return _writable(path, ".html")


def _writable(path: Path, suffix: str) -> Path:
    if path.suffix != suffix:
        raise typer.BadParameter(f"must end in {suffix}, got {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error}") from None
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise typer.BadParameter(f"cannot write {path}")
    return path
