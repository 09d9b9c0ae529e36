"""The commands `misotts bench ...` and `misotts capacity`: entry points of the group `misotts.commands`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.capacity.command import capacity
from benchmarks.load.command import app as bench
from benchmarks.options import JsonOutput
from benchmarks.sweep.command import sweep

__all__ = ["bench", "capacity"]

bench.command()(sweep)


@bench.command()
def peers(
    model: Annotated[Path, typer.Option(help="Model folder; both sides run its weights.")] = Path("models/random"),
    threads: Annotated[int, typer.Option(min=1, help="Number of torch threads of every side.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Number of prompt sets from which every side generates.")] = 5,
    output: JsonOutput = Path("out/peers.json"),
) -> None:
    """Compare the speed of the generate stage with Transformers' CSM: same weights, same prompts."""
    # In a process of its own, because OpenMP reads its environment when torch is loaded.
    options = {"model": model, "threads": threads, "rounds": rounds, "output": output}
    command = [sys.executable, "-m", "benchmarks.peers", *[f"--{name}={value}" for name, value in options.items()]]
    raise typer.Exit(subprocess.run(command, check=False).returncode)
