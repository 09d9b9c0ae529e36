"""The command `python -m convert backbone`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import torch
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from convert.backbone import Target, convert_backbone
from convert.fp8 import Fp8
from misotts.config import ModelConfig
from misotts.engines.table import KvType, Variant, WeightType
from misotts.model.checkpoint import Checkpoint
from misotts_client.errors import MisoError

TEXTS = Path("demo/text.txt")


Type = Literal["bfloat16", "float16"]
"""Types of activations."""


def backbone(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[Type, typer.Option(help="Type of activations, and of matrices that are not FP8.")] = "bfloat16",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that share every layer (tensor parallelism).")] = 1,
    weights: Annotated[WeightType, typer.Option(help="Number format of the matrices: full or fp8.")] = "full",
    kv_type: Annotated[KvType, typer.Option(help="Number format of keys and values.")] = "full",
    voices: Annotated[Optional[Path], typer.Option(help="Folder of voices to calibrate FP8 with.")] = None,  # noqa: UP045
    texts: Annotated[Path, typer.Option(help="Texts to calibrate FP8 with, one a line.")] = TEXTS,
) -> None:
    """Write the backbone as a TensorRT-LLM checkpoint."""
    if weights == "fp8" and voices is None:
        raise typer.BadParameter("FP8 is calibrated with real prompts: name a folder of voices with --voices")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, transient=True) as bars:
            Variant(weights, kv_type)  # refuses number formats that TensorRT-LLM does not have
            scales = _calibrate(model, voices, texts, kv_type, bars) if voices and weights == "fp8" else None
            bar = bars.add_task("weights")
            target = Target(getattr(torch, dtype), ranks, scales)
            folder = convert_backbone(model, target, lambda done, total: bars.update(bar, completed=done, total=total))
    except (OSError, ValueError, MisoError) as error:  # ValueError: what is wrong with the files
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
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
