"""The process: its listeners, from start to drain."""

from __future__ import annotations

from misotts_gateway.options import GatewayOptions


class GatewayError(RuntimeError):
    """The gateway cannot start. The message is one line for the operator."""


async def run(options: GatewayOptions) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        GatewayError: it cannot start.
    """
    raise GatewayError(f"the relay to {options.upstream} has not landed yet")
