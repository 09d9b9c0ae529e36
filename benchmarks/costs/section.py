"""The input of a section, and the functions that send its figures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.costs.floors import Rates, Work
from benchmarks.costs.sizes import Sizes
from benchmarks.costs.timing import measure

Send = Callable[[str, str, Any], object]
"""Takes `row`, a table's name and a row; `check`, a name and a finding; or `value`, a name and a value."""


class SkippedError(Exception):
    """A section that cannot run here; the message is the reason."""


class OutOfTimeError(Exception):
    """The section's time is up; the figures that it has sent remain."""


@dataclass(frozen=True)
class Section:
    """Sends every figure at once, so that nothing measured is lost."""

    device: str
    sizes: Sizes
    rates: Rates | None
    """The device's own rates; without them nothing has a floor."""
    deadline: float
    """Seconds of `time.monotonic()`."""
    send: Send
    pause_s: float = 0.0
    """Pause before every timed call."""

    @classmethod
    def collecting(
        cls, sizes: Sizes, tables: dict[str, list[dict[str, Any]]], device: str = "cpu", pause_s: float = 0.0
    ) -> Section:
        """Return a section without a time limit that only keeps the rows of its tables."""

        def send(kind: str, name: str, value: Any) -> None:
            if kind == "row":
                tables.setdefault(name, []).append(value)

        return cls(device, sizes, None, math.inf, send, pause_s)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the engines on this device."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def row(self, table: str, **row: Any) -> None:
        """Add a row to a table of this section."""
        self.send("row", table, row)

    def value(self, name: str, value: Any) -> None:
        self.send("value", name, value)

    def check(self, name: str, ok: bool, **found: Any) -> None:
        """Report whether something is right, and what was found."""
        self.send("check", name, {"ok": bool(ok), **found})

    def hurry(self) -> None:
        """Raises:
        OutOfTimeError: the section's time is up.
        """
        if time.monotonic() >= self.deadline:
            raise OutOfTimeError

    def time(
        self, table: str, action: Callable[[], object], work: Work | None = None, calls: int = 1, **where: Any
    ) -> None:
        """Add a row with the time of `action` and its floor; `calls`: runs between two looks at the clock, for an
        action of microseconds.

        Raises:
            OutOfTimeError: the section's time is up.
        """
        self.hurry()
        try:
            found = measure(action, self.device, self.sizes.repeats, self.sizes.seconds_per_row, calls, self.pause_s)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self.row(table, **where, skipped="the GPU's memory does not suffice")
            return
        floor = self.rates.floor(work, found.ms) if self.rates and work else {}
        self.row(table, **where, **asdict(found), **floor)
