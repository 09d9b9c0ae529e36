"""The command `misotts`."""

from __future__ import annotations

import typer

from misotts.cli import bench, voices, watermark
from misotts.cli.doctor import doctor
from misotts.cli.frames import frames
from misotts.cli.info import info
from misotts.cli.prepare import prepare
from misotts.cli.serve import serve
from misotts_client.say import say
from misotts_gateway.command import gateway

app = typer.Typer(
    help="Serve MisoTTS and its family on Triton Inference Server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # reflows the paragraphs of help texts
)
for command in (serve, gateway, doctor, say, frames, info, prepare):
    app.command()(command)
app.add_typer(voices.app, name="voices")
app.add_typer(watermark.app, name="watermark")
bench.mount(app)


def main() -> None:
    app()
