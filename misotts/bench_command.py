"""The commands `misotts bench ...`, where there is something to run."""

from __future__ import annotations

import typer


def mount(app: typer.Typer) -> None:
    """Add `bench`. Benchmarks belong to a checkout: an installed package only says so."""
    try:
        from benchmarks.load.command import app as bench_app
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("benchmarks"):
            raise
        app.command("bench", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(_absent)
    else:
        app.add_typer(bench_app, name="bench")


def _absent() -> None:
    """Measure a server under load; runs from a checkout only."""
    typer.echo("error: misotts bench runs from a checkout of misotts-serving: there is no benchmarks/ here", err=True)
    raise typer.Exit(1)
