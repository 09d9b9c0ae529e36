"""The processes, the run folder and the shared memory of a running server."""

import re
from pathlib import Path

import psutil

from misotts.serve.local import RunningServer
from misotts.serve.run_folder import SHARED_MEMORY, shared_memory_prefix
from misotts.serve.settings import RUN_ENV


def processes(server: RunningServer) -> list[psutil.Process]:
    """Return the launcher, the gateway, tritonserver and the stages."""
    launcher = psutil.Process(server.process.pid)
    return [launcher, *launcher.children(recursive=True)]


def gateway_of(server: RunningServer) -> psutil.Process:
    (gateway,) = [each for each in processes(server) if "misotts_gateway" in each.cmdline()]
    return gateway


def triton_of(server: RunningServer) -> psutil.Process:
    (triton,) = [each for each in processes(server) if Path(each.cmdline()[0]).name == "tritonserver"]
    return triton


def stage_process(server: RunningServer, stage: str) -> psutil.Process:
    """Return the process of a stage, the Python stub that tritonserver started for it."""
    (stub,) = [each for each in processes(server) if re.search(f"/{stage}/1/model.py", " ".join(each.cmdline()))]
    return stub


def run_folder(server: RunningServer) -> Path:
    return Path(triton_of(server).environ()[RUN_ENV])


def shared_memory(server: RunningServer) -> list[Path]:
    """Return the regions of this server; other servers may run on this machine."""
    return list(SHARED_MEMORY.glob(f"{shared_memory_prefix(run_folder(server))}*"))


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
