"""Batches over slots: streams that share one call of a streaming network, each with its own state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def rounds(lengths: Sequence[int]) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """Cut unequal pieces of work into calls of equal length, as few as possible.

    Yields (start, end, members, done): the members all have work from `start` to `end`, and those in `done` have no
    more after it. Lengths 3, 1, 3 make (0, 1, [0, 1, 2], [1]) and (1, 3, [0, 2], [0, 2]). Where there are lengths of 0,
    which take part in no call, (0, 0, [], ...) comes first.
    """
    start = 0
    for end in sorted(set(lengths)):
        members = [member for member, length in enumerate(lengths) if length >= end > 0]
        yield start, end, members, [member for member, length in enumerate(lengths) if length == end]
        start = end


def in_order(done: Iterable[tuple[int, Result]]) -> list[Result]:
    """The results of numbered pieces of work by their numbers, however they came."""
    return [result for _, result in sorted(done, key=lambda each: each[0])]


PACKED_SHARE = 4
"""Up to one in so many slots can be packed: a packed call needs as much state again."""


def call_rows(members: Sequence[int], slots: int) -> tuple[int, bool]:
    """Rows of a call over the slots `members`, and whether their states are packed together for it.

    Rows are powers of two, at most `slots`: few sizes make few CUDA graphs. A call in place has a row for every slot up
    to the highest member; low slots are handed out first. Where the members are few among many, packing at least halves
    the rows.
    """
    in_place, packed = _power(max(members), slots), _power(len(members) - 1, slots)
    if packed <= min(in_place // 2, slots // PACKED_SHARE):
        return packed, True
    return in_place, False


def _power(highest: int, slots: int) -> int:
    """The least power of two above `highest`, or `slots` if that is less."""
    return min(1 << highest.bit_length(), slots)
