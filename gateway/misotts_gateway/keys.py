"""API keys: a JSON file of hashes, read again when it changes."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from misotts_gateway.errors import UnknownKey
from misotts_gateway.files import file_version

log = logging.getLogger(__name__)

MAX_FILE = 16 * 2**20
MAX_TOKEN = 512
_TOKEN = re.compile(rf"[ -~]{{0,{MAX_TOKEN}}}")
"""What gRPC's metadata can carry to another gateway."""
_SCHEME = re.compile(r"(?:bearer|token)\s+", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class KeyFileError(ValueError):
    """The file of API keys cannot be used. The message is one line."""


@dataclass(frozen=True)
class Key:
    """One API key.

    Attributes:
        name: names the key in logs; unique.
        tenant: owner of the key, a label of metrics and a field of the access log.
        streams: utterances at once; None: no limit of its own.
        requests_per_minute: requests within 60 s; None: no limit.
        voices: True if the key may upload and delete voices.
    """

    name: str
    tenant: str
    streams: int | None = None
    requests_per_minute: int | None = None
    voices: bool = False


class Keys:
    """The keys that callers may show. Without a file, any caller passes."""

    def __init__(self, path: Path | None) -> None:
        """Raises KeyFileError if there is a file that cannot be used."""
        self._path = path
        self._version: object = None
        self._keys: dict[str, Key] = {}
        if path:
            self._version, self._keys = file_version(path), read_keys(path)

    @property
    def required(self) -> bool:
        """True if callers need a key."""
        return self._path is not None

    def reread(self) -> None:
        """Read the file again if it has changed. A file that cannot be used changes nothing but the log."""
        if self._path is None:
            return
        version = file_version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = read_keys(self._path)
            log.info("read %d API keys from %s", len(self._keys), self._path)
        except KeyFileError as error:
            log.error("the API keys stay as they were: %s", error)

    def find(self, headers: Mapping[str, Sequence[str]]) -> tuple[Key | None, str]:
        """Return the key that a caller shows in `authorization` or `x-api-key`, and its text.

        Without a file every text is accepted, and the key is None; a text that no metadata can carry counts as none.

        Raises:
            UnknownKey: there is a file, and no key, an unknown key or two different ones are shown.
        """
        shown = {_SCHEME.sub("", line.strip(), count=1).strip() for line in headers.get("authorization", ())}
        shown |= {line.strip() for line in headers.get("x-api-key", ())}
        shown.discard("")
        token = next(iter(shown)) if len(shown) == 1 else ""
        if not self.required:
            return None, token if _TOKEN.fullmatch(token) else ""
        if not shown:
            raise UnknownKey("an API key is required, in authorization or x-api-key")
        if len(shown) > 1:
            raise UnknownKey("two different API keys were shown")
        key = self._keys.get(digest(token)) if len(token) <= MAX_TOKEN else None
        if key is None:
            raise UnknownKey("the API key is not known")
        return key, token


def digest(token: str) -> str:
    """Return the hash of a key as the file has it."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> dict[str, Key]:
    """Read a file of keys; return them by their hash.

    Raises:
        KeyFileError: the file cannot be read, or is not `{"keys": [{"name": ..., "sha256": ..., ...}, ...]}`.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise KeyFileError(f"{path} is larger than {MAX_FILE} bytes")
        entries = json.loads(path.read_text(encoding="utf-8"))["keys"]
        keys = dict(_entry(entry) for entry in entries)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from None
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise KeyFileError(f'{path} is not JSON of the form {{"keys": [{{"name": ..., "sha256": ...}}]}}') from None
    if len({key.name for key in keys.values()}) < len(entries):
        raise KeyFileError(f"{path}: a name or a hash occurs twice")
    return keys


def _entry(entry: Any) -> tuple[str, Key]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not _NAME.fullmatch(entry["name"]):
        raise KeyFileError(f"every key needs a name that matches {_NAME.pattern}")
    name, hash = entry["name"], entry.get("sha256")
    if not isinstance(hash, str) or not _HASH.fullmatch(hash):
        raise KeyFileError(f"key {name!r}: sha256 must be 64 hexadecimal digits in lower case")
    given = {field: value for field, value in entry.items() if field != "sha256"}
    if unknown := set(given) - {field.name for field in fields(Key)}:
        raise KeyFileError(f"key {name!r}: unknown field {min(unknown)!r}")
    tenant = given.setdefault("tenant", name)
    if not isinstance(tenant, str) or not _NAME.fullmatch(tenant):
        raise KeyFileError(f"key {name!r}: tenant must match {_NAME.pattern}")
    for field in ("streams", "requests_per_minute"):
        limit = given.get(field)
        if limit is not None and (type(limit) is not int or limit < 1):
            raise KeyFileError(f"key {name!r}: {field} must be a whole number from 1, got {limit!r}")
    if not isinstance(given.get("voices", False), bool):
        raise KeyFileError(f"key {name!r}: voices must be true or false")
    return hash, Key(**given)
