"""The options of the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class GatewayOptions:
    """The options of `misotts-gateway`."""

    upstream: str
    """`unix:FOLDER/grpc:1` of a private Triton in this machine, or HOST:PORT of another gateway."""
    launcher: Path | None = None
    """The launcher's control socket; None for a gateway that runs by itself."""
    host: str = "0.0.0.0"
    grpc_port: int = 8001
    http_port: int = 8080
    ready_port: int = 8003
    api_keys: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    access_log: str | None = None
    """File of the access log; `-` is standard output; None: none is written."""
    traces: bool = False
    """True if spans are exported: see `misotts_gateway.traces`."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Peers whose `x-forwarded-for` is believed."""
    voices: Path | None = None
    """The folder of registered voices; None if there is none, or it is another machine's."""
    allow_voice_uploads: bool = False
    """True if any caller may add voices; with a file of keys, a key's own field counts."""
    voice_aliases: tuple[str, ...] = ()
    """Further names of voices, `NAME=VOICE`: see `misotts_gateway.voices.names.read_aliases`."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may call the HTTP port from a browser."""
    max_input: int = 100_000
    """Code points of the longest text that HTTP takes."""
    normalize: str | None = None
    """Language in which numbers are written as words for requests that do not say otherwise; None: not."""
    lexicon: Path | None = None
    """JSON file of words and their spellings."""
    streams_per_address: int = 256
    """Utterances at once of one caller's address."""
    max_message: int = 16 * MIB
    """Bytes of the largest request."""
    memory_limit: int = 1024 * MIB
    """Bytes of resident memory beyond which requests that are not complete are ended, the oldest first."""
