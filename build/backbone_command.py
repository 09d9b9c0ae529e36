"""The command `python -m build backbone`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from build.backbone import build_backbone
from convert.backbone_command import DType
from misotts.cli.errors import one_line_errors
from misotts.engines.interface import Limits
from misotts.engines.table import KvType, Variant


def backbone(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[DType, typer.Option(help="Type of the activations, and of matrices in `full`.")] = "bfloat16",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that share every layer (tensor parallelism).")] = 1,
    weights: Annotated[Literal["full", "fp8"], typer.Option(help="Number format of the matrices.")] = "full",
    kv_type: Annotated[KvType, typer.Option(help="Number format of keys and values.")] = "full",
    max_streams: Annotated[int, typer.Option(min=1, help="Most utterances in a step.")] = Limits.max_streams,
) -> None:
    """Build the backbone's TensorRT-LLM engine for the GPU of this machine, from its checkpoint."""
    with one_line_errors(OSError, ValueError):
        variant, limits = Variant(weights, kv_type, dtype, ranks), Limits(max_streams=max_streams)
        folder = build_backbone(model, variant, limits, lambda needs: typer.echo(f"the build takes {needs}"))
    typer.echo(f"{folder} is ready")
