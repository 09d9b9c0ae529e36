"""Resources that the processes of a running server use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from misotts.serve.local import RunningServer
from misotts.serve.settings import GATEWAY


@dataclass(frozen=True)
class Usage:
    """The resources of one process."""

    name: str
    memory_mib: float
    """Private memory, which would be freed if the process ended."""
    descriptors: int
    cpu_s: float
    """CPU time since the process started, without its children's."""


def usage(server: RunningServer) -> list[Usage]:
    """Return the usage of the launcher, the gateway, tritonserver and the four stages, sorted by name.

    Raises:
        psutil.Error: the server has ended.
    """
    launcher = psutil.Process(server.process.pid)
    found = [_usage(launcher, "launcher")]
    for process in launcher.children(recursive=True):
        found.append(_usage(process, process_name(process)))
    return sorted(found, key=lambda each: each.name)


def process_name(process: psutil.Process) -> str:
    """Return the name of a child of the launcher: a stage, the gateway or tritonserver."""
    words = process.cmdline()
    stage = re.search(r"/(\w+)/1/model\.py", " ".join(words))
    return stage[1] if stage else GATEWAY if "misotts_gateway" in words else Path(words[0]).name


def _usage(process: psutil.Process, name: str) -> Usage:
    cpu = process.cpu_times()
    return Usage(name, process.memory_full_info().uss / 2**20, process.num_fds(), cpu.user + cpu.system)
