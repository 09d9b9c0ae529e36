"""The commands `misotts bench ...` and `misotts capacity`, where there is something to run."""

from __future__ import annotations

import typer


def mount(app: typer.Typer) -> None:
    """Add `bench` and `capacity`. They belong to a checkout: an installed package only says so."""
    try:
        from benchmarks.command import bench, capacity
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("benchmarks"):
            raise
        for name in ("bench", "capacity"):
            settings = {"ignore_unknown_options": True, "allow_extra_args": True}
            app.command(name, context_settings=settings)(_absent)
    else:
        app.add_typer(bench, name="bench")
        app.command()(capacity)


def _absent() -> None:
    """Measure a server, or plan for one; runs from a checkout only."""
    typer.echo("error: this runs from a checkout of misotts-serving: there is no benchmarks/ here", err=True)
    raise typer.Exit(1)
