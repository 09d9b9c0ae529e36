"""Reads the files of a model folder: what is wrong with one is an error of one line that states the true reason."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import msgspec.inspect as schema

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file and the key."""


def file_fault(path: Path) -> str | None:
    """Return why `path` cannot be read, in words that follow its name; None if it is a file that can be read."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            path.open("rb").close()
            return None
        return "is a folder, not a file" if path.is_dir() else "is not a file"
    except OSError as error:
        return os_fault(error)


def os_fault(error: OSError) -> str:
    """Return an error of the operating system in words that follow the name of the file."""
    if error.errno == errno.ENOENT:
        return "is missing"
    if error.errno == errno.ENOTDIR:
        return "is missing: what should be its folder is a file"
    if error.errno == errno.EACCES:
        return f"may not be read by this user (uid {os.geteuid()})"
    return f"cannot be read: {error.strerror}"


def folder_fault(folder: Path) -> str | None:
    """Return why `folder` cannot be listed, in words that follow its name; None if it can."""
    try:
        os.scandir(folder).close()
        return None
    except NotADirectoryError:
        return "is not a folder"
    except OSError as error:
        return os_fault(error)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ConfigError: it cannot be read, is not JSON, or has a key twice or a number that JSON does not have.
    """
    if fault := file_fault(path):
        raise ConfigError(f"{path} {fault}")
    try:
        raw = json.loads(path.read_bytes(), object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must contain a JSON object")
    return raw


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"the key {repeated!r} stands in one object twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name}")


def validated(raw: Any, kind: type[T]) -> T:
    """Return `raw`, the content of a JSON file, as `kind`, a msgspec.Struct.

    Raises:
        ConfigError: one line that names the key, what is allowed and what came.
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$")
        keys = re.findall(r"\w+", path)
        if isinstance(error.__cause__, ValueError):  # raised by a Struct about values that do not fit each other
            raise ConfigError(": ".join([*([".".join(keys)] if keys else []), str(error.__cause__)])) from None
        raise ConfigError(_reason(raw, keys, words, schema.type_info(kind))) from None


def _reason(raw: Any, keys: list[str], words: str, info: schema.Type) -> str:
    value = raw
    for key in keys:
        if isinstance(value, dict):
            info, value = next(f.type for f in _fields(info) if f.encode_name == key), value[key]
        elif isinstance(info, schema.ListType):
            info, value = info.item_type, value[int(key)]
    if found := re.search("missing required field `(.*)`", words):
        needed = next(f.type for f in _fields(info) if f.encode_name == found[1])
        return _named([*keys, found[1]], f"is missing; it must be {_allowed(needed)}")
    if found := re.search("unknown field `(.*)`", words):
        known = ", ".join(f.encode_name for f in _fields(info))
        return f"{'.'.join([*keys, found[1]])} is not a known key; known are {known}"
    return _named(keys, f"must be {_allowed(info)}, got {_shown(value)}")


def _named(keys: list[str], words: str) -> str:
    return f"{'.'.join(keys)} {words}" if keys else words


def _fields(info: schema.Type) -> tuple[schema.Field, ...]:
    """Return the fields of an object's type, or of the object in a union."""
    parts = info.types if isinstance(info, schema.UnionType) else (info,)
    return next((part.fields for part in parts if isinstance(part, schema.StructType)), ())


def _allowed(info: schema.Type) -> str:
    if isinstance(info, schema.IntType):
        return f"an integer from {info.ge} to {info.le}"
    if isinstance(info, schema.FloatType):
        return f"a number {f'above {info.gt:g} and' if info.ge is None else f'from {info.ge:g}'} up to {info.le:g}"
    if isinstance(info, schema.BoolType):
        return "true or false"
    if isinstance(info, schema.LiteralType):
        return " or ".join(json.dumps(value) for value in info.values)
    if isinstance(info, schema.ListType):
        return f"a list of {info.min_length}, each {_allowed(info.item_type)}"
    if isinstance(info, schema.UnionType):
        return " or ".join(_allowed(part) for part in info.types if not isinstance(part, schema.NoneType))
    return "an object of " + ", ".join(f.encode_name for f in _fields(info))


def _shown(value: Any) -> str:
    """Return a value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:76]} ..."
