"""Batches over slots: streams that share a call of a streaming network, each with its own state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)
Result = TypeVar("Result")

PACKED_SHARE = 4
"""One in this many slots can be packed. A packed call needs a second state of that many rows."""


@dataclass(frozen=True)
class Piece(Generic[Scalar]):
    """Consecutive frames of one stream, as codes or as audio."""

    slot: int
    first: bool
    """True if the stream starts here; the slot's state is then reset."""
    data: npt.NDArray[Scalar]
    """Codes, int32 [frames, codebooks], or audio, float32 [frames * 1920]. May be empty."""
    last: bool = False
    """True if the stream ends here; everything that was held back then comes out."""


def starting_slots(pieces: Sequence[Piece[Scalar]]) -> list[int]:
    """Return the slots in which streams start. A slot may have one piece."""
    assert len({piece.slot for piece in pieces}) == len(pieces), "two pieces of one stream in one call"
    return [piece.slot for piece in pieces if piece.first]


def rounds(lengths: Sequence[int]) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """Cut pieces of unequal length into as few calls of equal length as possible.

    Yields (start, end, members, done): the members all have work from `start` to `end`, and those in `done` have none
    after it. Lengths 3, 1, 3 make (0, 1, [0, 1, 2], [1]) and (1, 3, [0, 2], [0, 2]). Pieces of length 0 take part in no
    call; if there are any, (0, 0, [], ...) comes first.
    """
    start = 0
    for end in sorted(set(lengths)):
        members = [member for member, length in enumerate(lengths) if length >= end > 0]
        yield start, end, members, [member for member, length in enumerate(lengths) if length == end]
        start = end


def in_order(numbered: Iterable[tuple[int, Result]]) -> list[Result]:
    """Return numbered results in the order of their numbers."""
    return [result for _, result in sorted(numbered, key=lambda each: each[0])]


def call_rows(members: Sequence[int], slots: int) -> tuple[int, bool]:
    """Return the number of rows of a call over the slots `members`, and whether their states are packed for it.

    The rows are a power of two, or `slots` if that is less: few sizes make few CUDA graphs. A call in place has a row
    for every slot up to the highest member; low slots are handed out first. A call is packed if its members are few and
    packing at least halves the rows.
    """
    in_place, packed = _power_above(max(members), slots), _power_above(len(members) - 1, slots)
    if packed <= min(in_place // 2, slots // PACKED_SHARE):
        return packed, True
    return in_place, False


def possible_rows(slots: int) -> set[tuple[int, bool]]:
    """Return all that `call_rows` can return."""
    powers = {_power_above(number, slots) for number in range(slots)}
    return {(rows, False) for rows in powers} | {(rows, True) for rows in powers if rows <= slots // PACKED_SHARE}


def _power_above(number: int, limit: int) -> int:
    """Return the least power of two above `number`, or `limit` if that is less."""
    return min(1 << number.bit_length(), limit)
