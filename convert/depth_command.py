"""The command `python -m convert depth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from convert.depth import convert_depth


def depth(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="float32 for ONNX Runtime on the CPU.")
    ] = "float32",
) -> None:
    """Write the depth decoder as one ONNX graph."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bars:
        bar = bars.add_task("weights", total=None)

        def show(written: int, total: int) -> None:
            bars.update(bar, completed=written, total=total)

        try:
            folder = convert_depth(model, getattr(torch, dtype), show)
        except (OSError, ValueError) as error:  # ValueError: what is wrong with the files
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
    typer.echo(f"{folder} is ready")
