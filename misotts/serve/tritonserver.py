"""Where tritonserver is, and how it is started: NVIDIA's container has it on PATH, a laptop in a wheel."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from misotts.serve.run_folder import shared_memory_prefix
from misotts.serve.settings import RUN_ENV, StageSettings
from misotts.watermark.key import KEY_ENV

REPOSITORY = "model_repository"

# A peer that vanished is given up after 15 s of silence, which ends its streams; Triton's own default is two hours.
# Clients may ping every 2 s, idle ones too (ours do every 5 s while a stream runs).
KEEPALIVE = (
    "--grpc-keepalive-time=5000",
    "--grpc-keepalive-timeout=10000",
    "--grpc-keepalive-permit-without-calls=1",
    "--grpc-http2-max-pings-without-data=0",
    "--grpc-http2-min-recv-ping-interval-without-data=2000",
)


class NoTritonError(RuntimeError):
    """There is no tritonserver that this Python can use."""


@dataclass(frozen=True)
class TritonServer:
    """A tritonserver and a backend folder whose Python stub matches this Python."""

    binary: Path
    backends: Path | None
    """None: the installation's own."""
    libraries: Path | None
    """What the binary needs on LD_LIBRARY_PATH."""

    @classmethod
    def find(cls, run: Path) -> TritonServer:
        """The one on PATH, else the one in the nvidia-pytriton wheel, its backend folder laid out in `run`.

        Raises:
            NoTritonError: neither is there, or the wheel has no stub for this Python.
        """
        on_path = shutil.which("tritonserver")
        if on_path:
            return cls(Path(on_path), None, None)
        spec = importlib.util.find_spec("pytriton")
        if spec is None or not spec.origin:
            raise NoTritonError("no tritonserver on PATH and no nvidia-pytriton wheel (see stale-pins.txt)")
        package = Path(spec.origin).parent / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = package / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.is_file():
            have = ", ".join(sorted(path.name for path in stub.parents[1].iterdir()))
            raise NoTritonError(f"the nvidia-pytriton wheel has no stub for Python {version}, only for {have}")
        _require_libpython(version)
        backend = run / "backends" / "python"
        shutil.copytree(package / "backends" / "python", backend)
        shutil.copy(stub, backend)
        return cls(package / "bin" / "tritonserver", backend.parent, package.parents[1] / "nvidia_pytriton.libs")

    def environment(self, settings: StageSettings) -> dict[str, str]:
        """The server's and so the stages' environment."""
        libraries = [str(self.libraries)] if self.libraries else []
        # The stub is linked to libpython, which a Python outside the system's folders brings itself.
        libraries += [sysconfig.get_config_var("LIBDIR") or "", os.environ.get("LD_LIBRARY_PATH", "")]
        cores = len(os.sched_getaffinity(0))
        inherited = {name: value for name, value in os.environ.items() if name != KEY_ENV}
        return {
            # Stages share the cores; each with a pool of all of them would fight the others.
            "OMP_NUM_THREADS": str(max(cores // 2, 1)),
            # A thread that spins while it waits takes the core from the very thread that it waits for: steps of 20 ms
            # were seen to take seconds.
            "OMP_WAIT_POLICY": "passive",
            **inherited,
            "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            RUN_ENV: settings.run,
        }

    def command(self, settings: StageSettings, host: str, ports: Ports, exit_timeout_s: int) -> list[str]:
        """The command line. Callers get inference and health; the rest of the protocol (models' configurations,
        loading and unloading, shared memory, ...) needs a key that nobody has."""
        private = "metadata,model-config,model-repository,shared-memory,statistics,trace,logging"
        backends = [f"--backend-directory={self.backends}"] if self.backends else []
        return [
            str(self.binary),
            f"--model-repository={settings.run}/{REPOSITORY}",
            *backends,
            f"--http-address={host}",
            f"--grpc-address={host}",
            f"--metrics-address={host}",
            f"--http-port={ports.http}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-port={ports.metrics}",
            *KEEPALIVE,
            f"--exit-timeout-secs={exit_timeout_s}",
            f"--grpc-restricted-protocol={private}:misotts={settings.secret}",
            f"--http-restricted-api={private}:misotts={settings.secret}",
            f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix(Path(settings.run))}",
        ]


@dataclass(frozen=True)
class Ports:
    """Where the server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002
    ready: int = 8003


def _require_libpython(version: str) -> None:
    """The stub is linked to the shared libpython, which a Python may be built or packaged without."""
    own = Path(sysconfig.get_config_var("LIBDIR") or "/") / f"libpython{version}.so.1.0"
    if not own.exists() and not ctypes.util.find_library(f"python{version}"):
        raise NoTritonError(f"Triton's stub needs libpython{version}.so.1.0 (Debian: libpython{version})")


def lay_out_repository(settings: StageSettings) -> None:
    """Copy the model repository to the run folder, with this start's door in place of `DOOR`."""
    source = Path(__file__).parents[2] / REPOSITORY  # a checkout
    if not source.is_dir():
        source = Path(__file__).parents[1] / REPOSITORY  # an installed wheel
    target = Path(settings.run) / REPOSITORY
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in target.glob("*/config.pbtxt"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"DOOR"', f'"{settings.door}"'), encoding="utf-8")
