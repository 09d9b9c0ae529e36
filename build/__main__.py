"""The commands `python -m build ...`."""

from __future__ import annotations

import typer

from build.backbone_command import backbone
from build.depth_command import depth
from build.kernels_command import kernels

app = typer.Typer(
    help="Build engines from what `python -m convert` writes.", add_completion=False, pretty_exceptions_enable=False
)
app.command()(backbone)
app.command()(depth)
app.command()(kernels)

if __name__ == "__main__":
    app()
