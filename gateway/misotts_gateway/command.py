"""The command `misotts-gateway`, which is `misotts gateway` too."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

import typer

from misotts_gateway.options import MIB, GatewayOptions


def _port(meaning: str) -> Any:
    return typer.Option(min=1, max=65535, help=meaning)


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read a list of networks such as `10.0.0.0/8,::1`.

    Raises:
        typer.BadParameter: an entry is not a network.
    """
    try:
        return tuple(ip_network(entry.strip()) for entry in text.split(",") if entry.strip())
    except ValueError as error:
        raise typer.BadParameter(f"{error}; write it like 10.0.0.0/8,192.168.1.7") from None


def gateway(
    upstream: Annotated[str, typer.Option(help="Host and gRPC port of a misotts server to pass requests on to.")],
    launcher: Annotated[Path | None, typer.Option(hidden=True)] = None,
    host: Annotated[str, typer.Option(help="Address or host name to listen on.")] = GatewayOptions.host,
    grpc_port: Annotated[int, _port("Port of gRPC.")] = GatewayOptions.grpc_port,
    http_port: Annotated[int, _port("Port of HTTP and WebSockets.")] = GatewayOptions.http_port,
    ready_port: Annotated[int, _port("Port of /ready, /live and /metrics.")] = GatewayOptions.ready_port,
    api_keys: Annotated[Path | None, typer.Option(help="File of API keys. Without it any caller is served.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM); it is read again by itself.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key (PEM) of --tls-cert.")] = None,
    access_log: Annotated[str | None, typer.Option(help="File for a JSON line per request; - is stdout.")] = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="Export OpenTelemetry spans, as the variables OTEL_EXPORTER_OTLP_... say.")
    ] = False,
    trusted_proxies: Annotated[
        str, typer.Option(help="Networks whose x-forwarded-for is believed, such as 10.0.0.0/8,::1.")
    ] = "",
    voices: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of registered voices, for HTTP's list.")
    ] = None,
    allow_voice_uploads: Annotated[
        bool, typer.Option("--allow-voice-uploads", help="Let callers without a key add voices over HTTP.")
    ] = False,
    voice_alias: Annotated[
        list[str] | None, typer.Option(help="Another name for a voice, NAME=VOICE or NAME=speaker:N; may be repeated.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may call the HTTP port; may be repeated.")
    ] = None,
    max_input: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Code points of HTTP's longest text.")
    ] = GatewayOptions.max_input,
    normalize: Annotated[
        str | None, typer.Option(help="Write numbers as words by default, in this language (en).")
    ] = None,
    lexicon: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSON file of words and their spellings.")
    ] = None,
    streams_per_address: Annotated[
        int, typer.Option(min=1, help="Largest number of utterances at once of a caller's address.")
    ] = GatewayOptions.streams_per_address,
    max_message_mib: Annotated[
        int, typer.Option(min=1, max=256, help="Size of the largest request in MiB.")
    ] = GatewayOptions.max_message // MIB,
    memory_limit_mib: Annotated[
        int, typer.Option(min=128, help="Resident memory in MiB above which incomplete requests are ended.")
    ] = GatewayOptions.memory_limit // MIB,
) -> None:
    """Run a gateway until SIGINT or SIGTERM: the public side of a misotts server, on this or another machine."""
    from misotts_gateway.process import GatewayError, run

    options = GatewayOptions(
        upstream=upstream,
        launcher=launcher,
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        ready_port=ready_port,
        api_keys=api_keys,
        tls_cert=tls_cert,
        tls_key=tls_key,
        access_log=access_log,
        traces=traces,
        trusted_proxies=parse_networks(trusted_proxies),
        voices=voices,
        allow_voice_uploads=allow_voice_uploads,
        voice_aliases=tuple(voice_alias or ()),
        allowed_origins=tuple(allow_origin or ()),
        max_input=max_input,
        normalize=normalize,
        lexicon=lexicon,
        streams_per_address=streams_per_address,
        max_message=max_message_mib * MIB,
        memory_limit=memory_limit_mib * MIB,
    )
    try:
        asyncio.run(run(options))
    except GatewayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def main() -> None:
    """The command `misotts-gateway`."""
    typer.run(gateway)
