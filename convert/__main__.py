"""The commands `python -m convert ...`."""

from __future__ import annotations

import typer

from convert.depth_command import depth

app = typer.Typer(
    help="Weights of a model folder → what engines are built from.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(depth)


@app.callback()
def main() -> None:
    """Keep `depth` a command's name, whatever others there are."""


if __name__ == "__main__":
    app()
