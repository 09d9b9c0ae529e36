"""The server's resources under a load: CPU and memory of its processes, busy time of its stages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.usage import Usage, usage
from misotts.serve.local import RunningServer, read_metrics
from misotts.serve.settings import STAGES

PUBLISH_S = 0.6
"""Stages publish their metrics every half second."""
STEPS, FRAMES = "misotts_generate_steps_total", "misotts_generate_frames_total"
OTHERS = "all else on the machine"


@dataclass(frozen=True)
class Snapshot:
    """The state of the server at one moment."""

    metrics: dict[str, float]
    """Empty if the metrics cannot be reached."""
    usage: list[Usage]
    """Empty for a server that was not started here, and for one that has ended."""
    machine_cpu_s: float
    """CPU time of everything on this machine since it started."""


def snapshot(metrics_url: str, server: RunningServer | None) -> Snapshot:
    """Wait until the stages have published their metrics, and read them."""
    time.sleep(PUBLISH_S)
    try:
        metrics = read_metrics(metrics_url)
    except OSError:
        metrics = {}
    try:
        used = usage(server) if server else []
    except psutil.Error:
        used = []
    cpu = psutil.cpu_times()
    return Snapshot(metrics, used, cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq)


def stages(before: Snapshot, after: Snapshot, seconds: float, audio_s: float) -> dict[str, Any] | None:
    """Return the busy time of each stage, and the mean batch; None without the stages' metrics, as at a gateway alone.

    Args:
        before, after: around the load.
        seconds: length of the load.
        audio_s: seconds of audio that callers heard in between.
    """
    spent = {name: after.metrics[name] - value for name, value in before.metrics.items() if name in after.metrics}
    names = {stage: f"misotts_{stage}_busy_seconds_total" for stage in STAGES}
    if not {*names.values(), STEPS, FRAMES} <= spent.keys():
        return None
    found: dict[str, Any] = {}
    for stage, name in names.items():
        busy_s = spent[name]
        found[stage] = {
            "busy_s": round(busy_s, 3),
            "busy_share": round(busy_s / seconds, 3),
            "busy_ms_per_audio_s": round(busy_s * 1000 / audio_s, 2) if audio_s else None,
        }
    steps = spent[STEPS]
    found["generate"]["mean_batch"] = round(spent[FRAMES] / steps, 2) if steps else None
    return found


def processes(before: Snapshot, after: Snapshot, seconds: float, generator_cpu_s: float) -> list[dict[str, Any]]:
    """Return CPU time and memory of each process of the server, and the CPU time of everything else; nothing for a
    server elsewhere or one that has ended.

    Everything else belongs to the result: a stage that waits for a core is slower without using more of it.
    """
    if not before.usage or [old.name for old in before.usage] != [new.name for new in after.usage]:
        return []
    spent = {new.name: new.cpu_s - old.cpu_s for old, new in zip(before.usage, after.usage, strict=True)}
    memory = {new.name: round(new.memory_mib) for new in after.usage}
    others = after.machine_cpu_s - before.machine_cpu_s - sum(spent.values()) - generator_cpu_s
    spent |= {"load generator": generator_cpu_s, OTHERS: max(others, 0.0)}
    return [
        {"process": name, "cpu_s": round(cpu_s, 2), "cores": round(cpu_s / seconds, 3), "memory_mib": memory.get(name)}
        for name, cpu_s in spent.items()
    ]


def other_cores(spent: list[dict[str, Any]]) -> float | None:
    """Return the cores that neither the server nor the generator used, from `processes`; None where that is empty."""
    return next((each["cores"] for each in spent if each["process"] == OTHERS), None)
