"""Reads protobuf's wire format within bounds, before any of it is copied or becomes an object.

A general parser would make an object of each of the millions of empty fields that 8 MB can hold.
"""

from __future__ import annotations

MAX_VARINT_BYTES = 10


class MalformedError(ValueError):
    """The bytes are no message, or one with more fields than the reader allows."""


Value = int | memoryview


def fields(data: memoryview, most: int) -> list[tuple[int, Value]]:
    """Return the number and the value of each field of a message, in order.

    The value is an int for a varint, else a view of the field's bytes.

    Raises:
        MalformedError: the message is cut off, has over `most` fields, or has a group.
    """
    found: list[tuple[int, Value]] = []
    position, end = 0, len(data)
    while position < end:
        if len(found) == most:
            raise MalformedError(f"a message has over {most} fields")
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            found.append((tag >> 3, value))
            continue
        if kind == 2:
            size, position = _varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise MalformedError(f"wire type {kind} is not used")
        if size > end - position:
            raise MalformedError("a field is longer than its message")
        found.append((tag >> 3, data[position : position + size]))
        position += size
    return found


def varints(data: memoryview, most: int) -> list[int]:
    """Return a packed list of varints.

    Raises:
        MalformedError: it is cut off or has over `most` numbers.
    """
    found: list[int] = []
    position = 0
    while position < len(data):
        if len(found) == most:
            raise MalformedError(f"a list has over {most} numbers")
        value, position = _varint(data, position)
        found.append(value)
    return found


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the varint at `position`, and the position behind it."""
    value = 0
    for shift, byte in enumerate(data[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    raise MalformedError("a number is cut off or too long")
