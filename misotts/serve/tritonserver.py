"""Finds a tritonserver and builds its command: NVIDIA's container has it on PATH, other machines have it in a wheel."""

from __future__ import annotations

import contextlib
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

KEPT_MIB = 64
"""Freed memory that a stage keeps for its next call."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(KEPT_MIB * 2**20)}
"""malloc's settings in the stages' environment. It would return the memory of a call's tensors and fetch it again, page
by page, at the next, which takes half of the time of decode and watermark."""


class NoTritonError(RuntimeError):
    """No tritonserver is found that this Python can use."""


@dataclass(frozen=True)
class TritonServer:
    """A tritonserver that runs its Python backend with this Python."""

    binary: Path
    backends: Path | None
    """Folder of backends; None: that of the installation."""
    libraries: Path | None
    """Folder of libraries that the binary needs on LD_LIBRARY_PATH."""

    @classmethod
    def find(cls, run: Path) -> TritonServer:
        """Find the one on PATH, else the one in the nvidia-pytriton wheel; its backend is copied to `run`.

        Raises:
            NoTritonError: neither exists, or the wheel has no stub for this Python.
        """
        on_path = shutil.which("tritonserver")
        if on_path:
            return cls(Path(on_path), None, None)
        spec = importlib.util.find_spec("pytriton")
        if spec is None or not spec.origin:
            raise NoTritonError(
                "tritonserver is not on PATH, and the nvidia-pytriton wheel (see stale-pins.txt) is missing"
            )
        package = Path(spec.origin).parent / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = package / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.is_file():
            versions = ", ".join(sorted(path.name for path in stub.parents[1].iterdir()))
            raise NoTritonError(f"the nvidia-pytriton wheel has no stub for Python {version}, only for {versions}")
        _require_libpython(version)
        backend = run / "backends" / "python"
        shutil.copytree(package / "backends" / "python", backend)
        shutil.copy(stub, backend)
        return cls(package / "bin" / "tritonserver", backend.parent, package.parents[1] / "nvidia_pytriton.libs")

    def environment(self, settings: StageSettings) -> dict[str, str]:
        """Return the environment of the server and its stages."""
        libraries = [str(self.libraries)] if self.libraries else []
        libraries += [*map(str, _libpython_folders()), os.environ.get("LD_LIBRARY_PATH", "")]
        cores = len(os.sched_getaffinity(0))
        inherited = {name: value for name, value in os.environ.items() if name != KEY_ENV}
        return {
            # The stages share the cores, so none of them gets a thread pool for all cores.
            "OMP_NUM_THREADS": str(max(cores // 2, 1)),
            # A thread that spins while it waits takes the core from the thread that it waits for: steps of 20 ms
            # then take seconds.
            "OMP_WAIT_POLICY": "passive",
            **KEEP_MEMORY,
            **inherited,
            "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            RUN_ENV: str(settings.run),
        }

    def command(self, settings: StageSettings, exit_timeout_s: int) -> list[str]:
        """Return the command line: tritonserver listens on sockets in the run folder and on no port."""
        backends = [f"--backend-directory={self.backends}"] if self.backends else []
        # A link, because Triton hands the path to a shell without quotes.
        repository = settings.run / "model_repository"
        repository.symlink_to(_repository())
        return [
            str(self.binary),
            f"--model-repository={repository}",
            *backends,
            # Else Triton starts each stage twice: first to ask it for what its configuration leaves out.
            "--disable-auto-complete-config",
            "--allow-http=false",
            # gRPC listens on the address and the port with a colon between them, metrics on the address alone.
            f"--grpc-address=unix:{settings.triton_socket.removesuffix(':1')}",
            "--grpc-port=1",
            f"--metrics-address=unix:{settings.metrics_socket}",
            "--metrics-port=1",
            f"--exit-timeout-secs={exit_timeout_s}",
            f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix(settings.run)}",
        ]


def _repository() -> Path:
    checkout, wheel = (Path(__file__).parents[up] / "model_repository" for up in (2, 1))
    return checkout if checkout.is_dir() else wheel


def tcp_listeners(pid: int) -> list[int]:
    """Return the TCP ports on which a process listens."""
    descriptors = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            descriptors.add(os.readlink(descriptor))
    rows = [
        row.split()
        for table in Path(f"/proc/{pid}/net").glob("tcp*")  # tcp6 is missing where IPv6 is switched off
        for row in table.read_text(encoding="ascii").splitlines()[1:]
    ]
    # The columns: number, local address, remote address, state (0A: listening), ..., inode at place 9.
    return [
        int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in descriptors
    ]


def _libpython_folders() -> list[Path]:
    """Return where the libpython that the stub is linked to lies, if this Python is not the system's. A Python that was
    built elsewhere, such as uv's, does not know its own `LIBDIR`."""
    return [Path(folder) for folder in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib") if folder]


def _require_libpython(version: str) -> None:
    """Check for the shared libpython that the stub is linked to: a Python may be built or packaged without it."""
    beside = any((folder / f"libpython{version}.so.1.0").exists() for folder in _libpython_folders())
    if not beside and not ctypes.util.find_library(f"python{version}"):
        raise NoTritonError(f"Triton's stub needs libpython{version}.so.1.0 (Debian: libpython{version})")
