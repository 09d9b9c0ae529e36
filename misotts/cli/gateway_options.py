"""The gateway's options as options of `misotts serve`, which passes them on. They are written once, in the gateway."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from misotts_gateway.command import gateway

SET_BY_THE_LAUNCHER = ("upstream", "launcher")


def with_gateway_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with the gateway's options that it does not have itself, for typer. It gets them as `gateway`,
    words of the gateway's command line."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "gateway"]
    known = {*signature.parameters, *SET_BY_THE_LAUNCHER}
    of_gateway = inspect.signature(gateway, eval_str=True).parameters
    more = {name: parameter for name, parameter in of_gateway.items() if name not in known}

    def run(**values: Any) -> None:
        changed = {name: values.pop(name) for name in more}
        words = _words({name: value for name, value in changed.items() if value != more[name].default})
        command(**values, gateway=tuple(words))

    parameters = [*own, *more.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            yield flag
        else:
            yield from (f"{flag}={each}" for each in (value if isinstance(value, list) else [value]))
