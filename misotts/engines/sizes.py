"""Sizes of memory in units that people read."""

from __future__ import annotations

import math
from collections.abc import Callable

from misotts.config import ConfigError

_UNITS = ("bytes", "KiB", "MiB", "GiB")


def at_most(size: int) -> str:
    """`size` bytes, rounded down: `1000 bytes`, `4.06 MiB`."""
    return _in_words(size, math.floor)


def at_least(size: int) -> str:
    """The same rounded up: who gives as much gives enough."""
    return _in_words(size, math.ceil)


def check_kv_memory(given: int | None, need: int) -> None:
    """Hold `--kv-memory` against what one utterance of full length needs, both in bytes.

    Raises:
        ConfigError: it is too small.
    """
    if given is not None and given < need:
        what = "for the keys and values of one utterance of full length"
        raise ConfigError(f"--kv-memory is {at_most(given)}; at least {at_least(need)} are needed {what}")


def _in_words(size: int, rounded: Callable[[float], int]) -> str:
    power = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{rounded(size * 100 / 1024**power) / 100:.{2 if power else 0}f} {_UNITS[power]}"
