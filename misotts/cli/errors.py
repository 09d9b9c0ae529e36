"""Errors of commands as one line on stderr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from misotts.serve.report import formed


@contextmanager
def one_line_errors(*errors: type[Exception]) -> Iterator[None]:
    """Print an error of one of these types as one line on stderr, and exit with status 1."""
    try:
        yield
    except errors as error:
        try:
            typer.echo(formed(f"error: {_words(error)}"), err=True)
        except OSError:  # nothing reads stderr; Python would write the line again at its end, and change the status
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        raise typer.Exit(1) from None


def _words(error: Exception) -> str:
    """Return an error's message; that of an OSError about a file without its number and quotes."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
