"""The public gRPC listener, and the certificate of both public ports."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from misotts_gateway import limits
from misotts_gateway.files import file_version
from misotts_gateway.options import GatewayOptions

log = logging.getLogger(__name__)


class ListenError(ValueError):
    """A listener cannot be made as the options say. The message is one line."""


def grpc_server(options: GatewayOptions, handler: grpc.GenericRpcHandler) -> grpc.aio.Server:
    """Return the gRPC server, bound and not yet started.

    Raises:
        ListenError: the address, the port or the certificate cannot be used.
    """
    server = grpc.aio.server(handlers=(handler,), options=_server_options(options.max_message))
    where = f"{grpc_host(options.host)}:{options.grpc_port}"
    try:
        if files := tls_files(options):
            server.add_secure_port(where, Certificates(*files).credentials())
        else:
            server.add_insecure_port(where)
    except RuntimeError:
        raise ListenError(f"cannot listen on the gRPC port {options.grpc_port} of {options.host}") from None
    return server


def tls_files(options: GatewayOptions) -> tuple[Path, Path] | None:
    """Return the files of the certificate chain and its key; None without TLS.

    Raises:
        ListenError: only one of the two is given.
    """
    if options.tls_cert and options.tls_key:
        return options.tls_cert, options.tls_key
    if options.tls_cert or options.tls_key:
        raise ListenError("--tls-cert and --tls-key come together")
    return None


def grpc_host(host: str) -> str:
    """Return a host as gRPC writes it: IPv6 addresses in brackets.

    Raises:
        ListenError: it is empty or has no address.
    """
    if not host:
        raise ListenError("--host must not be empty; 0.0.0.0 is every address")
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"--host {host} has no address: {error.strerror}") from None
    return f"[{host}]" if ":" in host else host


def _server_options(max_message: int) -> Sequence[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_message),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.MAX_METADATA),
        ("grpc.absolute_max_metadata_size", limits.MAX_METADATA),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a message is refused before it is unpacked
        ("grpc.max_concurrent_streams", limits.STREAMS_PER_CONNECTION),
        ("grpc.max_allowed_incoming_connections", limits.MAX_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", limits.HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", limits.IDLE_MS),
        ("grpc.keepalive_time_ms", limits.KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.PING_INTERVAL_MS),
        ("grpc.http2.bdp_probe", 0),  # it grows windows: 100 callers that do not read would hold 570 MB
        ("grpc.so_reuseport", 0),  # a second server on the port fails instead of taking half of the callers
    ]


class Certificates:
    """A certificate chain and its key, read again when the files change."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises OSError if they cannot be read."""
        self._files = (chain, key)
        self._version = self._current()
        self._pair = self._read()

    def credentials(self) -> Any:
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._changed)

    def _configuration(self) -> Any:
        chain, key = self._pair
        return grpc.ssl_server_certificate_configuration([(key, chain)])

    def _changed(self) -> Any:
        """Return the new certificate, or None if it is the same. gRPC calls this in every handshake."""
        version = self._current()
        if version == self._version:
            return None
        try:
            self._pair = self._read()
            self._version = version
            return self._configuration()
        except OSError as error:
            log.error("the certificate stays as it was: %s", error)
            return None

    def _read(self) -> tuple[bytes, bytes]:
        chain, key = (path.read_bytes() for path in self._files)
        return chain, key

    def _current(self) -> list[object]:
        return [file_version(path) for path in self._files]
