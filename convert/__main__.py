"""The commands `python -m convert ...`."""

from __future__ import annotations

import typer

from convert.backbone_command import backbone
from convert.depth_command import depth

app = typer.Typer(
    help="Write a model folder's weights in the formats that engines are built from.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(backbone)
app.command()(depth)

if __name__ == "__main__":
    app()
