"""The command `python -m build backbone`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from build.backbone import build_backbone
from convert.backbone_command import Fp8Parts, Type
from misotts.engines.interface import Limits
from misotts.engines.tensorrt_llm.backbone import Variant


def backbone(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[Type, typer.Option(help="Type of activations, and of matrices that are not FP8.")] = "bfloat16",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that share every layer (tensor parallelism).")] = 1,
    fp8: Annotated[Fp8Parts, typer.Option(help="What is FP8 in the checkpoint.")] = "no",
    max_streams: Annotated[int, typer.Option(min=1, help="Utterances that generate at once.")] = Limits.max_streams,
) -> None:
    """Build the backbone's checkpoint into a TensorRT-LLM engine for the GPU at hand."""
    variant = Variant(getattr(torch, dtype), ranks, fp8 != "no", fp8 == "weights-and-kv")
    try:
        folder = build_backbone(
            model, variant, Limits(max_streams=max_streams), lambda needs: typer.echo(f"takes {needs}")
        )
    except (OSError, ValueError) as error:  # ValueError: what is wrong with the files or the machine
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{folder} is ready")
