"""Batches over slots: streams that share one call of a streaming network, each with its own state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def rounds(lengths: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
    """Cut unequal pieces of work into calls of equal length, as few as possible.

    Yields (start, end, members): the members all have work from `start` to `end`. Lengths 3, 1, 3 make
    (0, 1, [0, 1, 2]) and (1, 3, [0, 2]); a length of 0 takes part in none. Whose length is `end` has no more to do.
    """
    start = 0
    for end in sorted(set(lengths) - {0}):
        yield start, end, [member for member, length in enumerate(lengths) if length >= end]
        start = end


def in_order(done: Iterable[tuple[int, Result]]) -> list[Result]:
    """The results of numbered pieces of work by their numbers, however they came."""
    return [result for _, result in sorted(done, key=lambda each: each[0])]


def rows_for(highest: int, slots: int) -> int:
    """Rows of a call that reaches slot `highest`: the next power of two, at most `slots`. Low slots are handed out
    first, so few streams make small calls; few sizes make few CUDA graphs."""
    return min(1 << highest.bit_length(), slots)
