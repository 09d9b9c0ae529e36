"""The command `misotts prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from misotts.cli.errors import one_line_errors


def prepare(
    folder: Annotated[Path, typer.Argument(help="Model folder to make. It must not exist yet.")],
    weights: Annotated[
        Path, typer.Option(exists=True, help="Weights of MisoTTS or CSM: a folder, a file, or an index of shards.")
    ],
    tokenizer: Annotated[
        Path, typer.Option(exists=True, help="Llama 3's tokenizer: tokenizer.json, or Meta's tokenizer.model.")
    ],
    mimi: Annotated[
        Path, typer.Option(exists=True, help="Mimi's safetensors file, as moshi or Transformers (kyutai/mimi) has it.")
    ],
    silentcipher: Annotated[Path, typer.Option(exists=True, help="Folder of SilentCipher's 44.1 kHz model.")],
    config: Annotated[
        Path | None, typer.Option(help="Configuration. By default config.json beside the weights.")
    ] = None,
) -> None:
    """Make a model folder from downloaded files and check it. If anything fails, no folder is left behind."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from misotts.cli.model_folder import Downloads, make_model_folder
    from misotts.engines.compiled.library import library_fault

    beside = weights if weights.is_dir() else weights.parent
    downloads = Downloads(weights, tokenizer, mimi, silentcipher, config or beside / "config.json")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    # ValueError: a file is damaged or does not fit the others.
    console = Console(stderr=True)
    bars = Progress(*columns, console=console, disable=not console.is_terminal)
    with one_line_errors(OSError, ValueError), bars:
        bar = bars.add_task("reading", total=None)

        def show(name: str, written: int, total: int) -> None:
            bars.update(bar, description=name, completed=written, total=total)

        make_model_folder(folder, downloads, show)
    if fault := library_fault():  # only on the CPU a server needs it
        typer.echo(f"{fault}; on the CPU the server will use PyTorch, which is about ten times slower", err=True)
    typer.echo(f"{folder} is ready")
