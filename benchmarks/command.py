"""The commands `misotts bench ...` and `misotts capacity`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.capacity.command import capacity
from benchmarks.load.command import app as bench
from benchmarks.outputs import json_file
from benchmarks.sweep.command import sweep

__all__ = ["bench", "capacity"]

bench.command()(sweep)


@bench.command()
def peers(
    model: Annotated[Path, typer.Option(help="Model folder whose weights both sides run.")] = Path("models/demo"),
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of every side.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Sets of prompts on which all sides take their turn.")] = 5,
    output: Annotated[Path, typer.Option("--output", "-o", callback=json_file, help="JSON file to write.")] = Path(
        "out/peers.json"
    ),
) -> None:
    """Race our generate stage against Transformers' CSM generation: same weights, same prompts."""
    # A process of its own: it sets what torch's threads read when they are loaded.
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers",
        f"--model={model}",
        f"--threads={threads}",
        f"--rounds={rounds}",
        f"--output={output}",
    ]
    raise typer.Exit(subprocess.run(command, check=False).returncode)
