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
from misotts.model.checkpoint import Checkpoint
from misotts_client.errors import MisoError

TEXTS = Path("demo/text.txt")


Type = Literal["bfloat16", "float16"]
"""Types of activations."""

Fp8Parts = Literal["no", "weights", "weights-and-kv"]
"""What is rounded to FP8: nothing, the matrices, or keys and values as well. (Keys and values alone would switch
TensorRT-LLM's paged context attention off, and with it prompts that are read in pieces.)"""


def backbone(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dtype: Annotated[Type, typer.Option(help="Type of activations, and of matrices that are not FP8.")] = "bfloat16",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that share every layer (tensor parallelism).")] = 1,
    fp8: Annotated[Fp8Parts, typer.Option(help="What is rounded to FP8.")] = "no",
    voices: Annotated[Optional[Path], typer.Option(help="Folder of voices to calibrate FP8 with.")] = None,  # noqa: UP045
    texts: Annotated[Path, typer.Option(help="Texts to calibrate FP8 with, one a line.")] = TEXTS,
) -> None:
    """Write the backbone as a TensorRT-LLM checkpoint."""
    if fp8 != "no" and voices is None:
        raise typer.BadParameter("FP8 is calibrated with real prompts: name a folder of voices with --voices")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, transient=True) as bars:
            scales = _calibrate(model, voices, texts, fp8, bars) if voices and fp8 != "no" else None
            bar = bars.add_task("weights")
            target = Target(getattr(torch, dtype), ranks, scales)
            folder = convert_backbone(model, target, lambda done, total: bars.update(bar, completed=done, total=total))
    except (OSError, ValueError, MisoError) as error:  # ValueError: what is wrong with the files
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{folder} is ready")


def _calibrate(model: Path, voices: Path, texts: Path, fp8: Fp8Parts, bars: Progress) -> Fp8:
    from convert.calibrate import calibrate, real_prompts

    config = ModelConfig.load(model)
    weights = Checkpoint(model, config)
    lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    prompts = real_prompts(model, config, lines, voices)
    bar = bars.add_task("calibration")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def show(done: int, layers: int) -> None:
        bars.update(bar, completed=done, total=layers)

    return calibrate(weights, config, prompts, fp8 == "weights-and-kv", show, device)
