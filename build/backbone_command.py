"""The command `python -m build backbone`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from build.backbone import build_backbone
from convert.backbone_command import Type
from misotts.engines.interface import Limits
from misotts.engines.table import KvType, Variant, WeightType


def backbone(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[Type, typer.Option(help="Type of activations, and of matrices that are not FP8.")] = "bfloat16",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that share every layer (tensor parallelism).")] = 1,
    weights: Annotated[WeightType, typer.Option(help="Number format of the matrices: full or fp8.")] = "full",
    kv_type: Annotated[KvType, typer.Option(help="Number format of keys and values.")] = "full",
    max_streams: Annotated[int, typer.Option(min=1, help="Utterances that generate at once.")] = Limits.max_streams,
) -> None:
    """Build the backbone's checkpoint into a TensorRT-LLM engine for the GPU at hand."""
    try:
        variant = Variant(weights, kv_type, dtype, ranks)
        folder = build_backbone(
            model, variant, Limits(max_streams=max_streams), lambda needs: typer.echo(f"takes {needs}")
        )
    except (OSError, ValueError) as error:  # ValueError: what is wrong with the files or the machine
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{folder} is ready")
