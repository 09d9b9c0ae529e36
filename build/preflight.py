"""The memory and disk of a build, checked before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convert.disk import check_disk
from misotts.engines.table import EngineError


@dataclass(frozen=True)
class Needs:
    """Bytes of memory and disk that a build needs."""

    memory: int
    disk: int

    def __str__(self) -> str:
        return f"about {self.memory / 2**30:.1f} GiB of memory and {self.disk / 2**30:.1f} GiB of disk"

    def check(self, folder: Path) -> None:
        """Check that memory and the disk of `folder` suffice.

        Raises:
            EngineError: names the numbers.
        """
        check_disk(folder, self.disk)
        available = available_memory()
        if available < self.memory:
            raise EngineError(f"the build takes {self}; {available / 2**30:.1f} GiB of memory are available")


def available_memory() -> int:
    """Bytes that the kernel can hand out without swapping."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
