"""Bodies and messages in JSON: an object, and its fields one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from misotts_client.errors import InvalidArgument

_LARGEST = 1e300
"""JSON has numbers that no float can hold; those beyond this are refused before anything counts with them."""

Read = Callable[[str, Any], Any]


def read_json(raw: bytes | str, what: str = "the body") -> dict[str, Any]:
    """Return the object in a JSON text.

    Args:
        what: names the text in errors.

    Raises:
        InvalidArgument: it is not an object in JSON and UTF-8, or it nests too deep.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
        content = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidArgument(None, f"{what} must be UTF-8, byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidArgument(None, f"{what} must be JSON: {error.msg} in {place}") from None
    except (RecursionError, ValueError) as error:  # brackets 1,000 deep; a number of 4,300 digits
        raise InvalidArgument(None, f"{what} must be JSON that can be read: {error}") from None
    if not isinstance(content, dict):
        raise InvalidArgument(None, f"{what} must be a JSON object, it is {kind(content)}")
    return content


class Fields:
    """Reads the fields of an object and notes which of them were read. A field that is null counts as left out.

    Attributes:
        given: the fields that are not null.
        taken: names of those that were asked for.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.given = {name: value for name, value in content.items() if value is not None}
        self.taken: set[str] = set()

    def take(self, name: str, default: Any, read: Read) -> Any:
        """Return a field as `read(name, value)` returns it, or the default."""
        self.taken.add(name)
        return read(name, self.given[name]) if name in self.given else default

    def required(self, name: str, read: Read) -> Any:
        """The same for a field without a default.

        Raises:
            InvalidArgument: it is left out.
        """
        if name not in self.given:
            raise InvalidArgument(name, "is required, it was left out")
        return self.take(name, None, read)

    def one_of(self, name: str, default: Any, choices: Iterable[Any]) -> Any:
        """Return the one of the choices that a field is: JSON's 24000.0 is the whole number 24000.

        Raises:
            InvalidArgument: it is another value.
        """
        value = self.take(name, default, lambda _, value: value)
        choices = list(choices)
        if isinstance(value, bool | list | dict) or value not in choices:
            raise InvalidArgument(name, f"must be one of {', '.join(map(str, choices))}, got {shown(value)}")
        return choices[choices.index(value)]


def read_text(name: str, value: Any) -> str:
    """Return a value that is text, and UTF-8 can have. Raises InvalidArgument."""
    if not isinstance(value, str):
        raise InvalidArgument(name, f"must be text, got {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(name, f"cannot be UTF-8: {error.reason} at code point {error.start}") from None
    return value


def read_flag(name: str, value: Any) -> bool:
    """Return a value that is true or false. Raises InvalidArgument."""
    if not isinstance(value, bool):
        raise InvalidArgument(name, f"must be true or false, got {kind(value)}")
    return value


def read_object(name: str, value: Any) -> dict[str, Any]:
    """Return a value that is an object. Raises InvalidArgument."""
    if not isinstance(value, dict):
        raise InvalidArgument(name, f"must be an object, got {kind(value)}")
    return value


def read_number(name: str, value: Any) -> float:
    """Return a value that is a number. Raises InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(name, f"must be a number, got {kind(value)}")
    if not -_LARGEST < value < _LARGEST:
        raise InvalidArgument(name, f"must be between {-_LARGEST:g} and {_LARGEST:g}, got {shown(value)}")
    return value


def whole(low: int, high: int) -> Read:
    """Return a function that reads a whole number within limits, both inclusive."""

    def read(name: str, value: Any) -> int:
        number = read_number(name, value)
        if number != number // 1 or not low <= number <= high:
            raise InvalidArgument(name, f"must be a whole number of {low} to {high}, got {shown(value)}")
        return int(number)

    return read


def kind(value: Any) -> str:
    """Return the kind of a JSON value in words."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def shown(value: Any) -> str:
    """Return a JSON value for a message, in at most 80 characters."""
    return repr(value)[:80] if isinstance(value, str | int | float) else kind(value)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
