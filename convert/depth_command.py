"""The command `python -m convert depth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from convert.depth import convert_depth
from misotts.cli.errors import one_line_errors


def depth(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of weights and activations.")
    ] = "bfloat16",
) -> None:
    """Write the depth decoder as an ONNX graph, for `python -m build depth`."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bars:
        bar = bars.add_task("weights", total=None)

        def show(written: int, total: int) -> None:
            bars.update(bar, completed=written, total=total)

        with one_line_errors(OSError, ValueError):
            folder = convert_depth(model, getattr(torch, dtype), show)
    typer.echo(f"{folder} is ready")
