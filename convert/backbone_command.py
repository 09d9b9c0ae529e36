"""The command `python -m convert backbone`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from convert.backbone import convert_backbone
from convert.fp8 import Fp8
from misotts.cli.errors import one_line_errors
from misotts.config import ModelConfig
from misotts.engines.table import KvType, Variant
from misotts.model.checkpoint import Checkpoint
from misotts_client.errors import MisoError

TEXTS = Path("demo/text.txt")

DType = Literal["bfloat16", "float16"]
"""Types of the activations."""


def backbone(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[DType, typer.Option(help="Type of the activations, and of matrices in `full`.")] = "bfloat16",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that share every layer (tensor parallelism).")] = 1,
    weights: Annotated[Literal["full", "fp8"], typer.Option(help="Number format of the matrices.")] = "full",
    kv_type: Annotated[KvType, typer.Option(help="Number format of keys and values.")] = "full",
    voices: Annotated[Path | None, typer.Option(help="Folder of voices for the calibration of FP8.")] = None,
    texts: Annotated[Path, typer.Option(help="File of texts for the calibration of FP8, one text a line.")] = TEXTS,
) -> None:
    """Write the backbone as a TensorRT-LLM checkpoint, from which `python -m build backbone` builds the engine."""
    if weights == "fp8" and voices is None:
        raise typer.BadParameter("--weights fp8 needs --voices: FP8 is calibrated with prompts of real speech")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with one_line_errors(OSError, ValueError, MisoError), Progress(*columns, transient=True) as bars:
        variant = Variant(weights, kv_type, dtype, ranks)
        fp8 = _calibrate(model, voices, texts, kv_type, bars) if voices and weights == "fp8" else None
        bar = bars.add_task("weights")

        def show(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        folder = convert_backbone(model, variant, show, fp8)
    typer.echo(f"{folder} is ready")


def _calibrate(model: Path, voices: Path, texts: Path, kv_type: KvType, bars: Progress) -> Fp8:
    from convert.calibrate import calibrate, real_prompts

    config = ModelConfig.load(model)
    weights = Checkpoint(model, config)
    lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    prompts = real_prompts(model, config, lines, voices)
    bar = bars.add_task("calibration")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def show(done: int, layers: int) -> None:
        bars.update(bar, completed=done, total=layers)

    return calibrate(weights, config, prompts, kv_type == "fp8", show, device)
