"""The command `python -m build depth`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from build.depth import build_depth, depth_needs
from misotts.cli.errors import one_line_errors


def depth(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"], typer.Option(help="Type of weights and activations.")
    ] = "bfloat16",
    max_streams: Annotated[int, typer.Option(min=1, help="Most utterances in a step.")] = 16,
    gpu: Annotated[
        str | None,
        typer.Option(help="Compute capability to build for, such as 8.9. By default that of this machine's GPU."),
    ] = None,
) -> None:
    """Build the depth engine from its ONNX graph, for the GPU of this machine or, with TensorRT for RTX, another
    one."""
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), transient=True) as bars:
        bar = bars.add_task("reading", total=None)

        def show(phase: str, done: int, steps: int) -> None:
            bars.update(bar, description=phase, completed=done, total=steps)

        with one_line_errors(OSError, ValueError):
            bars.print(f"the build takes {depth_needs(model, getattr(torch, dtype))}")
            folder = build_depth(model, getattr(torch, dtype), max_streams, gpu, show)
    typer.echo(f"{folder} is ready")
