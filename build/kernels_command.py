"""The command `python -m build kernels`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def kernels(
    gpu: Annotated[str, typer.Option(help="Compute capability to compile for.")] = "9.0",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """Compile the graph engine's Triton kernels for a GPU, which this machine need not have, and print the resources of
    each. This is a check: the server compiles the kernels again where they run."""
    from build.kernels import compile_kernels

    try:
        major, minor = map(int, gpu.split("."))
    except ValueError:
        raise typer.BadParameter(f"{gpu!r} is not a compute capability; write it like 9.0") from None
    found = [asdict(kernel) for kernel in compile_kernels(10 * major + minor)]
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table(*found[0])
    for kernel in found:
        table.add_row(*map(str, kernel.values()))
    Console().print(table)
