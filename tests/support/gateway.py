"""A gateway process for as long as a block runs."""

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from misotts.serve.local import free_ports
from tests.support.http import request
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class RunningGateway:
    """A process of `misotts-gateway` that listens on 127.0.0.1."""

    process: subprocess.Popen[str]
    grpc_port: int
    http_port: int
    ready_port: int

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def metrics(self) -> str:
        return request(self.ready_port, "GET", "/metrics").body.decode()


@contextlib.contextmanager
def running_gateway(upstream: str, *options: str, **process: Any) -> Iterator[RunningGateway]:
    """Run a gateway before `upstream` with `options`, which override those that are chosen here."""
    ports = free_ports(3)
    names = ("--grpc-port", "--http-port", "--ready-port")
    flags = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    command = [sys.executable, "-m", "misotts_gateway", f"--upstream={upstream}", "--host=127.0.0.1", *flags, *options]
    gateway = RunningGateway(subprocess.Popen(command, text=True, **process), *ports)
    try:
        public = (gateway.grpc_port, gateway.http_port)  # gRPC's port takes connections before the others are there
        wait_until(lambda: gateway.process.poll() is not None or all(map(listens, public)), 30)
        assert gateway.process.poll() is None, "the gateway has ended"
        yield gateway
    finally:
        gateway.process.kill()
        gateway.process.wait()


def write_keys(path: Path, keys: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a file of API keys and return it. `keys`: the fields of each key but its hash, by the key's text."""
    entries = [{"sha256": hashlib.sha256(text.encode()).hexdigest(), **fields} for text, fields in keys.items()]
    path.write_text(json.dumps({"keys": entries}))
    return path


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
