"""One of several GPUs of a host for one server: its cores, and NVIDIA's MPS."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_ASK = ("nvidia-smi", "--query-gpu=pci.bus_id", "--format=csv,noheader")
_DEVICES = Path("/sys/bus/pci/devices")
_DRIVER = Path("/dev/nvidiactl")


class NoGpuError(RuntimeError):
    """The GPU that is asked for does not exist. The message is one line."""


def use_gpu(number: int) -> str:
    """Let this process and its children use one GPU, and the cores that are its share; return both in words.

    Raises:
        NoGpuError: there is no such GPU, or the driver does not answer.
    """
    try:
        listed = subprocess.run(_ASK, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NoGpuError(f"--gpu {number}: nvidia-smi does not list the GPUs of this machine ({error})") from None
    buses = listed.split()
    if number >= len(buses):
        raise NoGpuError(f"--gpu {number}: this machine has {len(buses)} GPUs, which are counted from 0")
    allowed = frozenset(os.sched_getaffinity(0))
    cores = cores_of(number, [_near(bus) & allowed or allowed for bus in buses])
    # nvidia-smi counts by bus, CUDA by speed unless it is told otherwise.
    os.environ.update({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(number)})
    os.sched_setaffinity(0, cores)
    return f"GPU {number}, cores {_ranges(cores)}"


def cores_of(number: int, near: Sequence[frozenset[int]]) -> frozenset[int]:
    """Return the share of a GPU: of the cores near it, as many as each other GPU near the same ones gets.

    Args:
        near: the cores near each GPU.
    """
    sharing = [other for other, cores in enumerate(near) if cores == near[number]]
    cores, place = sorted(near[number]), sharing.index(number)
    share = len(cores) // len(sharing)
    return frozenset(cores[place * share : (place + 1) * share] or cores)  # fewer cores than GPUs: all share all


def without_mps() -> bool:
    """True if this machine has an NVIDIA GPU and no Multi-Process Service that this process would use."""
    pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    return _DRIVER.exists() and not (pipes / "control").exists()


def _near(bus: str) -> frozenset[int]:
    """Return the cores near a GPU; none if the system does not say. nvidia-smi writes `00000000:1B:00.0`, sysfs
    `0000:1b:00.0`."""
    try:
        text = (_DEVICES / bus.lower()[-12:] / "local_cpulist").read_text(encoding="ascii")
    except OSError:
        return frozenset()
    spans = [part.partition("-") for part in text.strip().split(",") if part]
    return frozenset(core for first, _, last in spans for core in range(int(first), int(last or first) + 1))


def _ranges(cores: frozenset[int]) -> str:
    """Return cores as `0-11,48-59`."""
    spans: list[list[int]] = []
    for core in sorted(cores):
        if spans and core == spans[-1][1] + 1:
            spans[-1][1] = core
        else:
            spans.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
