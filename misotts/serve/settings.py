"""The options of `misotts serve`, and what the launcher adds to them for the stages."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from misotts.engines.table import EngineChoice
from misotts.generate.conversations import SESSIONS, SessionOptions
from misotts.generate.flow import DEFAULTS, FlowOptions
from misotts.watermark.key import REFERENCE_KEY

RUN_ENV = "MISOTTS_RUN"
"""Environment variable that names the run folder."""
SETTINGS = "settings"
"""A file in the run folder."""

STAGES = ("prompt", "generate", "decode", "watermark")
GATEWAY = "gateway"
"""The name of the gateway on the control connection."""


PORTS_APART = 10
"""Ports of the servers of neighbouring GPUs are this far apart."""


@dataclass(frozen=True)
class Ports:
    """The ports of the gateway."""

    grpc: int = 8001
    http: int = 8080
    ready: int = 8003

    @classmethod
    def of(cls, gpu: int | None, grpc: int | None, http: int | None, ready: int | None) -> Ports:
        """Return the ports of the server of a GPU, or of the only server; those that are given, as they are."""
        more = PORTS_APART * (gpu or 0)
        return cls(grpc or cls.grpc + more, http or cls.http + more, ready or cls.ready + more)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `misotts serve`."""

    model: Path
    voices: Path | None = None
    host: str = "0.0.0.0"
    ports: Ports = Ports()
    gateway: tuple[str, ...] = ()
    """Further options of the gateway, as on its command line."""
    max_streams: int = 16
    kv_memory: int | None = None
    """Bytes of the KV pool; None: the generate stage chooses."""
    engines: EngineChoice = EngineChoice()
    watermark_key: bytes = field(default=REFERENCE_KEY, repr=False)
    flow: FlowOptions = DEFAULTS
    sessions: SessionOptions = SESSIONS
    max_audio_ms: int | None = None
    """Longest audio of a request without MAX_AUDIO_MS; None: it follows the text."""
    drain_s: float = 60.0
    """Longest time that running streams get to end."""


@dataclass(frozen=True, kw_only=True)
class StageSettings(ServeOptions):
    """The options of one run of the server, and what its processes share. The stages read them from a file."""

    run: Path
    """The run folder: settings, sockets, log."""

    @property
    def triton_socket(self) -> str:
        """Path of the socket on which tritonserver listens for gRPC."""
        return f"{self.run}/grpc:1"

    @property
    def metrics_socket(self) -> str:
        """Path of the socket on which tritonserver publishes its metrics, by HTTP."""
        return f"{self.run}/metrics"

    @property
    def control_socket(self) -> str:
        """Path of the socket on which the launcher listens for the stages."""
        return f"{self.run}/control"

    @property
    def acknowledge_socket(self) -> str:
        """Path of the socket on which `generate` receives acknowledgements."""
        return f"{self.run}/acknowledge"

    def save(self) -> None:
        """Write the settings to the run folder, readable by this user only: they hold keys.

        The stages get the folders of the model and the voices as links in the run folder: the Python of Triton's stub
        takes paths for ASCII, and so do libraries that open files themselves.
        """
        links: dict[str, Any] = {name: self.run / name for name in ("model", "voices") if getattr(self, name)}
        for name, link in links.items():
            link.symlink_to(getattr(self, name).absolute())
        with open(os.open(self.run / SETTINGS, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as file:
            pickle.dump(replace(self, **links), file)

    @classmethod
    def load(cls) -> StageSettings:
        """Read the settings of the run that this process belongs to.

        Raises:
            RuntimeError: the process was not started by `misotts serve`.
        """
        run = os.environ.get(RUN_ENV)
        if not run:
            raise RuntimeError("the stages are started by `misotts serve`, not by tritonserver alone")
        settings: StageSettings = pickle.loads((Path(run) / SETTINGS).read_bytes())
        return settings
