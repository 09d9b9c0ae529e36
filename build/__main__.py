"""The commands `python -m build ...`."""

from __future__ import annotations

import typer

from build.depth_command import depth

app = typer.Typer(help="What `convert` has written → engines.", add_completion=False, pretty_exceptions_enable=False)
app.command()(depth)


@app.callback()
def main() -> None:
    """Keep `depth` a command's name, whatever others there are."""


if __name__ == "__main__":
    app()
