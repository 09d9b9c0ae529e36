"""The command `misotts doctor`."""

from __future__ import annotations

import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from misotts.cli.options import DEFAULT_MODEL, KeyFile, Model, Voices, port_option
from misotts.files import folder_fault

SHARED_MEMORY_BYTES = 128 * 2**20
"""A context of the greatest length takes 16 MB in each region that it crosses, and regions do not shrink."""
OPEN_FILES = 1024
EARLIEST = time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, 0))


class FaultError(Exception):
    """Something will fail; the arguments are what is wrong, and the mend."""


@dataclass(frozen=True)
class Machine:
    """What the checks look at."""

    model: Path
    voices: Path | None
    key_file: Path | None
    reference_key: bool
    host: str
    ports: tuple[int, ...]


def driver(_: Machine) -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    if Path("/proc/driver/nvidia/version").exists():
        raise FaultError(
            "there is an NVIDIA driver, but PyTorch cannot use it", "update the driver, or run with --gpus all"
        )
    return "no GPU: everything runs on the CPU"


def compiler(_: Machine) -> str:
    import torch

    from misotts.engines.compiled.library import library_fault

    if torch.cuda.is_available():
        return "not needed on a GPU"
    if fault := library_fault():
        raise FaultError(f"{fault}: the server would use PyTorch, ten times slower", "apt-get install g++, or set CXX")
    return "it has made the CPU engine"


def shared_memory(_: Machine) -> str:
    size = shutil.disk_usage("/dev/shm")
    if size.free < SHARED_MEMORY_BYTES:
        least = SHARED_MEMORY_BYTES // 2**20
        raise FaultError(f"/dev/shm has {size.free // 2**20} MiB free, {least} are needed", "docker run --shm-size 1g")
    return f"{size.free // 2**20} MiB free"


def open_files(_: Machine) -> str:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise FaultError(f"{hard} files may be open, {OPEN_FILES} are needed", f"ulimit -n {OPEN_FILES}")
    return f"{'any number' if hard == resource.RLIM_INFINITY else hard} may be open"


def temporary_folder(_: Machine) -> str:
    from misotts.serve.run_folder import temporary_folder_fault

    folder = Path(tempfile.gettempdir())
    if fault := temporary_folder_fault(folder):
        raise FaultError(f"{folder} {fault}", "set TMPDIR to another folder")
    return str(folder)


def tritonserver(_: Machine) -> str:
    from misotts.serve.tritonserver import NoTritonError, TritonServer

    with tempfile.TemporaryDirectory() as run:
        try:
            return str(TritonServer.find(Path(run)).binary)
        except NoTritonError as error:
            raise FaultError(str(error), "see docs/deploy.md, or pip install -r stale-pins.txt --no-deps") from None


def numpy(_: Machine) -> str:
    from numpy import __version__

    if not shutil.which("tritonserver") and not __version__.startswith("1."):
        raise FaultError(f"numpy {__version__}: the wheel's Triton 2.51 needs numpy 1", "pip install 'numpy<2'")
    return __version__


def model_folder(machine: Machine) -> str:
    from misotts.config import check_model_folder
    from misotts.mimi import load_mimi
    from misotts.model.checkpoint import Checkpoint
    from misotts.prompt.tokenizer import Tokenizer
    from misotts.watermark.detector import Detector
    from misotts.watermark.watermarker import Watermarker

    try:
        config = check_model_folder(machine.model)
        Checkpoint(machine.model, config)
        Tokenizer(machine.model, config)
        load_mimi(machine.model, config)
        Watermarker(machine.model, slots=1)
        Detector(machine.model)
    except ValueError as error:
        raise FaultError(str(error), "make the folder again with `misotts prepare`") from None
    return str(machine.model)


def voices(machine: Machine) -> str:
    from misotts.prompt.voices import Voices
    from misotts_client.errors import FieldError

    if machine.voices is None:
        return "none"
    if fault := folder_fault(machine.voices):
        raise FaultError(f"{machine.voices} {fault}", "give --voices a folder that this user may read")
    registered = Voices(machine.voices)
    names = registered.names()
    for name in names:
        try:
            registered.segment(name, speaker=0)
        except FieldError as error:
            raise FaultError(error.message, "`misotts voices list` shows all; add it again with --replace") from None
    return f"{len(names)} in {machine.voices}"


def watermark_key(machine: Machine) -> str:
    from misotts.watermark.key import WatermarkKeyError, read_key

    if machine.reference_key:
        return "the published one, which proves nothing"
    try:
        read_key(machine.key_file)
    except WatermarkKeyError as error:
        raise FaultError(str(error), "misotts watermark key KEY_FILE") from None
    return "a key of your own"


def ports(machine: Machine) -> str:
    for port in machine.ports:
        try:
            family, _, _, _, address = socket.getaddrinfo(machine.host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            raise FaultError(
                f"port {port} of {machine.host}: {error.strerror}", "stop what listens there (ss -ltnp)"
            ) from None
    return f"{', '.join(map(str, machine.ports))} of {machine.host} are free"


def clock(_: Machine) -> str:
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if now < EARLIEST:
        raise FaultError(f"it says {shown}", "set the clock: no certificate is valid then")
    return shown


CHECKS: dict[str, Callable[[Machine], str]] = {
    "driver": driver,
    "C++ compiler": compiler,
    "shared memory": shared_memory,
    "open files": open_files,
    "TMPDIR": temporary_folder,
    "Triton": tritonserver,
    "numpy": numpy,
    "model": model_folder,
    "voices": voices,
    "watermark key": watermark_key,
    "ports": ports,
    "clock": clock,
}
"""Those of the model's files, the voices' folder, the key, TMPDIR and Triton are the functions that the start calls."""


def _lines(machine: Machine) -> Iterator[tuple[bool, str]]:
    for name, check in CHECKS.items():
        try:
            yield True, f"ok    {name:14} {check(machine)}"
        except FaultError as fault:
            wrong, mend = fault.args
            yield False, f"FAIL  {name:14} {wrong}; mend: {mend}"


def doctor(
    model: Model = DEFAULT_MODEL,
    voices: Voices = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    gpu: Annotated[
        list[int] | None, typer.Option(min=0, help="As for `serve`; may be repeated, for all servers of a host.")
    ] = None,
    grpc_port: Annotated[int | None, port_option("Port of gRPC; by default that of `serve`.")] = None,
    http_port: Annotated[int | None, port_option("Port of the HTTP API; by default that of `serve`.")] = None,
    ready_port: Annotated[int | None, port_option("Port of the probes; by default that of `serve`.")] = None,
    watermark_key_file: KeyFile = None,
    allow_reference_key: Annotated[bool, typer.Option(help="As for `serve`.")] = False,
) -> None:
    """Check what `misotts serve` with these options needs: one line each, with the mend.

    Exit status 1 if something will fail.
    """
    from misotts.serve.settings import Ports

    if len(gpu or ()) > 1 and (grpc_port or http_port or ready_port):
        raise typer.BadParameter("--grpc-port, --http-port and --ready-port are one server's; give one --gpu with them")
    servers = [Ports.of(number, grpc_port, http_port, ready_port) for number in gpu or (None,)]
    ports = tuple(port for server in servers for port in vars(server).values())
    machine = Machine(model, voices, watermark_key_file, allow_reference_key, host, ports)
    results = list(_lines(machine))
    for _, line in results:
        typer.echo(line)
    raise typer.Exit(0 if all(good for good, _ in results) else 1)
