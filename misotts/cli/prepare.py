"""The command `misotts prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def prepare(
    folder: Annotated[Path, typer.Argument(help="Model folder to make.")],
    weights: Annotated[
        Path, typer.Option(exists=True, help="Folder, file or shards' index of MisoTTS's or CSM's weights.")
    ],
    tokenizer: Annotated[Path, typer.Option(exists=True, help="tokenizer.json, or Meta's tokenizer.model of Llama 3.")],
    mimi: Annotated[
        Path, typer.Option(exists=True, help="Mimi's safetensors file: moshi's, or Transformers' kyutai/mimi.")
    ],
    silentcipher: Annotated[Path, typer.Option(exists=True, help="Folder of SilentCipher's 44.1 kHz model.")],
    config: Annotated[Optional[Path], typer.Option(help="By default config.json beside the weights.")] = None,  # noqa: UP045
) -> None:
    """Make a model folder from downloaded files. It appears whole, or not at all."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from misotts.model.prepare import Downloads, make_model_folder

    beside = weights if weights.is_dir() else weights.parent
    downloads = Downloads(weights, tokenizer, mimi, silentcipher, config or beside / "config.json")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        bar = bars.add_task("reading", total=None)

        def show(name: str, written: int, total: int) -> None:
            bars.update(bar, description=name, completed=written, total=total)

        try:
            make_model_folder(folder, downloads, show)
        except (OSError, ValueError) as error:  # ValueError: what is wrong with the files
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
    typer.echo(f"{folder} is ready")
