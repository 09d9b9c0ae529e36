"""Commands that other packages add to `misotts`: `bench` and `capacity` of a checkout's benchmarks."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import typer

GROUP = "misotts.commands"
"""Group of entry points; each is a typer.Typer or a function, and its name is the command's."""


def mount(app: typer.Typer) -> None:
    """Add the commands of `GROUP`; a command without its package only reports that."""
    for entry in entry_points(group=GROUP):
        try:
            found = entry.load()
        except ModuleNotFoundError as error:
            if not f"{entry.module}.".startswith(f"{error.name}."):
                raise
            _mount_absent(app, entry)
        else:
            if isinstance(found, typer.Typer):
                app.add_typer(found, name=entry.name)
            else:
                app.command(entry.name)(found)


def _mount_absent(app: typer.Typer, entry: EntryPoint) -> None:
    package = entry.module.partition(".")[0]

    @app.command(entry.name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def absent() -> None:
        """Measure a server, or plan for one; runs from a checkout only."""
        typer.echo(f"error: `{entry.name}` runs from a checkout of misotts-serving: {package}/ is not here", err=True)
        raise typer.Exit(1)
