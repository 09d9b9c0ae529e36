"""Two gateways before scripted servers, behind a real Envoy, and clients of theirs."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from websockets.sync.client import ClientConnection, connect

from benchmarks.fleet.envoy import RunningEnvoy
from misotts_client import Client
from misotts_client.transport import SESSION
from tests.support.fake_triton import FakeTriton
from tests.support.gateway import RunningGateway


@dataclass
class Fleet:
    """Two gateways before scripted servers, and Envoy before both."""

    envoy: RunningEnvoy
    gateways: list[RunningGateway]
    fakes: list[FakeTriton]
    clients: ExitStack = field(default_factory=ExitStack)

    def client(self, **metadata: str) -> Client:
        named = {name.replace("_", "-"): value for name, value in metadata.items()}
        return self.clients.enter_context(Client(self.envoy.url, ca=self.envoy.ca, metadata=named))

    def session_of(self, number: int, clients: int = 1) -> list[Client]:
        """Return clients whose sessions hash to a server."""
        found: list[Client] = []
        for n in range(60):
            client = self.client(**{SESSION: f"conversation-{n}"})
            before = len(self.fakes[number].requests)
            client.speak("Hello.")
            if len(self.fakes[number].requests) > before:
                found.append(client)
            if len(found) == clients:
                return found
        raise AssertionError("no session hashes to the server")

    def http(self, path: str, body: dict[str, Any]) -> bytes:
        """Return the answer to a POST over HTTP/1.1, its head included."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
        with self.tls() as connection:
            connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def tls(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.envoy.port), timeout=60)
        return self._trusting().wrap_socket(plain, server_hostname="localhost")

    def websocket(self, path: str) -> ClientConnection:
        return connect(f"wss://localhost:{self.envoy.port}{path}", ssl=self._trusting(), compression=None)

    def _trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.envoy.ca)
