"""Runs the sections one after another, each in a process of its own, and collects their results.

Memory that a section does not free, an error that leaves the device unusable, and a hang end with the section's
process. The parent never touches the GPU: it forks, listens, watches the clock, and reads the GPU's clocks from
nvidia-smi.
"""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.costs.engines import ENGINES
from benchmarks.costs.floors import Rates
from benchmarks.costs.section import OutOfTimeError, Section, SkippedError
from benchmarks.costs.sizes import Sizes

GRACE_S = 15.0
"""Seconds after a section's time until its process is killed: one row may take some seconds."""
LEAST_S = 5.0
"""A section begins only if at least this much time is left."""
LISTEN_S = 0.5
LOOK_EVERY_S = 2.0
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")

DONE, NOT_BEGUN = "done", "not begun: the suite's time is up"

Result = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A section's name, its function, and the most seconds that it may take."""

    name: str
    run: Callable[[Section], None]
    seconds: float
    alone: bool = False
    """True if it runs only where it is asked for by name."""


def parts() -> list[Part]:
    """Return the sections, those that tell most first. The limits up to `kernels, pdl` fit into one command."""
    engines = tuple(reversed(ENGINES))
    return [
        Part("frames", _later("gpu_suite.frames", "frames"), 50),
        Part("rates", _later("gpu_suite.rates", "rates"), 15),
        *(Part(f"frame, {name}", _later("costs.generate", "frame", engine=name), 45) for name in engines),
        Part("pipeline", _later("gpu_suite.pipeline", "pipeline"), 65),
        Part("decode", _later("costs.codec", "decode"), 40),
        Part("watermark", _later("costs.codec", "watermark"), 30),
        Part("kernels", _later("gpu_suite.kernels", "kernels", pdl=False), 60),
        Part("kernels, pdl", _later("gpu_suite.kernels", "kernels", pdl=True), 45),
        *(Part(f"generate, {name}", _later("costs.generate", "generate", engine=name), 110) for name in engines),
        Part("tests", _later("gpu_suite.gpu_tests", "gpu_tests"), 60),
        Part("peer", _later("gpu_suite.peer", "peer", compiled=False), 60),
        Part("peer, compiled", _later("gpu_suite.peer", "peer", compiled=True), 120),
        Part("server", _later("gpu_suite.server", "server"), 270, alone=True),
        Part("server, mps", _later("gpu_suite.server", "server", mps=True), 270, alone=True),
    ]


def _later(module: str, function: str, **options: Any) -> Callable[[Section], None]:
    """Return a section that is imported when it begins: a missing library skips only the sections that need it."""

    def run(section: Section) -> None:
        try:
            found = getattr(import_module(f"benchmarks.{module}"), function)
        except ModuleNotFoundError as error:
            raise SkippedError(str(error)) from None
        found(section, **options)

    return run


def preload() -> None:
    """Import the slow modules once, before forking. An import that fails here fails again in its section, which
    reports it."""
    for module in ("costs.codec", "gpu_suite.pipeline", "gpu_suite.peer"):
        with suppress(Exception):
            import_module(f"benchmarks.{module}")


@dataclass
class Suite:
    """Runs the sections and keeps their results."""

    device: str
    sizes: Sizes
    seconds: float
    """Limit of all sections together."""
    sections: dict[str, Result] = field(default_factory=dict)
    """Results by section: `state`, `date`, `seconds`, `checks`, `tables`, `values`, `clocks`."""

    def run(self, parts: list[Part]) -> Iterator[str]:
        """Run the sections that are not done; yield the name of each one that has ended."""
        end = time.monotonic() + self.seconds
        left_over = [part for part in parts if self.sections.get(part.name, {}).get("state") != DONE]
        for part in left_over:
            self.sections.setdefault(part.name, {"state": NOT_BEGUN, "seconds": 0.0})
        for part in left_over:
            left = end - time.monotonic() - GRACE_S
            if left >= LEAST_S:
                self._run_part(part, min(part.seconds, left))
            yield part.name

    @property
    def failures(self) -> list[str]:
        """Sections that failed, and checks that found something wrong."""
        found = []
        for name, section in self.sections.items():
            if section["state"].startswith(("failed", "killed")):
                found.append(f"{name}: {section['state']}")
            found += [f"{name}: {check}" for check, result in section.get("checks", {}).items() if not result["ok"]]
        return found

    def _rates(self) -> Rates | None:
        figures = self.sections.get("rates", {}).get("values", {}).get("rates")
        return Rates(**figures) if figures else None

    def _run_part(self, part: Part, seconds: float) -> None:
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        result: Result = {"state": "", "date": date, "seconds": 0.0}
        result |= {"checks": {}, "tables": {}, "values": {}, "clocks": {}}
        self.sections[part.name] = result
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        began = time.monotonic()
        arguments = (part, self.device, self.sizes, self._rates(), began + seconds, theirs)
        process = context.Process(target=_work, args=arguments)
        process.start()
        theirs.close()
        try:
            result["state"] = _listen(ours, result, began + seconds + GRACE_S)
        finally:
            process.kill()
            process.join()
        result["seconds"] = round(time.monotonic() - began, 1)


def in_another_process(ask: Callable[[], Any]) -> Any:
    """Return the result of `ask`, so that this process does not use the GPU."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(ask).result()


def _listen(connection: Connection, result: Result, killed_at: float) -> str:
    """Collect what a section sends until it ends; return how it ended."""
    looked = 0.0
    while time.monotonic() < killed_at:
        try:
            if connection.poll(LISTEN_S):
                kind, name, value = connection.recv()
                if kind == "end":
                    return value
                if kind == "row":
                    result["tables"].setdefault(name, []).append(value)
                else:
                    result["checks" if kind == "check" else "values"][name] = value
        except EOFError:
            return "failed: its process died"
        if time.monotonic() - looked >= LOOK_EVERY_S:
            looked = time.monotonic()
            _note_clocks(result["clocks"])
    return "killed: it did not end in time"


def _note_clocks(seen: dict[str, list[float]]) -> None:
    """Keep the lowest and highest of each of `CLOCKS` (MHz, MHz, W, degrees)."""
    if not shutil.which("nvidia-smi"):
        return
    query = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        values = [float(value) for value in answer.split(",")]
    except (subprocess.SubprocessError, ValueError):
        return
    for name, value in zip(CLOCKS, values, strict=True):
        low, high = seen.get(name, [value, value])
        seen[name] = [min(low, value), max(high, value)]


def _work(part: Part, device: str, sizes: Sizes, rates: Rates | None, deadline: float, connection: Connection) -> None:
    """Run a section in its own process."""

    def send(kind: str, name: str, value: Any) -> None:
        connection.send((kind, name, value))

    section = Section(device, sizes, rates, deadline, send)
    try:
        part.run(section)
        state = DONE
    except SkippedError as reason:
        state = f"skipped: {reason}"
    except OutOfTimeError:
        state = "out of time"
    except Exception as error:
        traceback.print_exc()
        state = f"failed: {type(error).__name__}: {str(error)[:2000]}"
    send("end", "", state)


def gpu() -> dict[str, Any] | None:
    """Return the GPU's properties, or None; asks CUDA."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": round(getattr(properties, "L2_cache_size", 0) / 2**20, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }
