"""The command `python -m build depth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from build.depth import build_depth, depth_needs


def depth(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[Literal["bfloat16", "float16", "float32"], typer.Option()] = "bfloat16",
    max_streams: Annotated[int, typer.Option(min=1, help="Most utterances in a step.")] = 16,
    gpu: Annotated[Optional[str], typer.Option(help="Compute capability, such as 8.9; the GPU here.")] = None,  # noqa: UP045
) -> None:
    """Build the depth engine: TensorRT for the GPU here, TensorRT for RTX for any GPU that it knows."""
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), transient=True) as bars:
        bar = bars.add_task("reading", total=None)

        def show(phase: str, done: int, steps: int) -> None:
            bars.update(bar, description=phase, completed=done, total=steps)

        try:
            bars.print(f"takes {depth_needs(model, getattr(torch, dtype))}")
            folder = build_depth(model, getattr(torch, dtype), max_streams, gpu, show)
        except (OSError, ValueError) as error:  # ValueError: what is wrong with model, graph or GPU
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
    typer.echo(f"{folder} is ready")
