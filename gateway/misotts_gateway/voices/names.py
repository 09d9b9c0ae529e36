"""The voices that a caller can name: its own, the operator's, and aliases of them."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from misotts_client.contract import INPUTS, VOICE_NAME, check_voice_name
from misotts_client.errors import NotFound

OPENAI_VOICES = (
    *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
    *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
)
DEFAULT_ALIASES: Mapping[str, str] = {name: f"speaker:{index % 2}" for index, name in enumerate(OPENAI_VOICES)}
"""OpenAI's names are spoken by the model's speakers 0 and 1 in turn."""
MAX_RECORD = 4096
"""Bytes of the record of an uploaded voice."""

_CLIPS = (".wav", ".flac", ".mp3")
_SPEAKER = re.compile(r"speaker:(\d{1,2})")
_UPLOADED = re.compile(r"u-[0-9a-f]{40}")
"""Names of uploaded voices in the folder. No caller can ask for them by these names."""


@dataclass(frozen=True)
class Chosen:
    """How the private side gets a voice: by its name in the folder, or as a speaker's number; None: the default."""

    voice: str | None = None
    speaker: int | None = None


@dataclass(frozen=True)
class Uploaded:
    """The record of an uploaded voice, a JSON file beside its clip.

    Attributes:
        name: as its tenant names it.
        tenant: its owner; empty where the server asks for no keys.
        consent: what the caller sent as the consent of the person.
        created_at: seconds since 1970.
    """

    name: str
    tenant: str
    consent: str
    created_at: int


class VoiceNames:
    """Finds voices by name.

    Args:
        folder: of the registered voices; None if it is another machine's, or there is none.
        aliases: further names: a voice in the folder, or `speaker:N`. A voice of the same name wins.
        remote: True if the private side may know voices that are not in a folder here.
    """

    def __init__(self, folder: Path | None, aliases: Mapping[str, str] = DEFAULT_ALIASES, remote: bool = False) -> None:
        self.folder, self._aliases, self._remote = folder, dict(aliases), remote

    def resolve(self, name: str | None, tenant: str) -> Chosen:
        """Return the voice that a tenant means by a name.

        Raises:
            InvalidArgument: it cannot be the name of a voice.
            NotFound: there is no such voice for this tenant.
        """
        if name is None:
            return Chosen()
        check_voice_name(name)
        if self.has_uploaded(name, tenant):
            return Chosen(uploaded_name(tenant, name))
        if self.has_registered(name):
            return Chosen(name)
        target = self._aliases.get(name)
        if target is not None:
            speaker = _SPEAKER.fullmatch(target)
            return Chosen(speaker=int(speaker[1])) if speaker else Chosen(target)
        if self._remote and self.folder is None:
            return Chosen(name)
        raise NotFound("VOICE", f"no voice named {name!r} is registered")

    def listed(self, tenant: str) -> list[dict[str, object]]:
        """Return what a tenant can name: `id`, `name`, `type` (`uploaded`, `registered`, `alias`) and more, sorted."""
        found: dict[str, dict[str, object]] = {
            name: {"id": name, "name": name, "type": "alias", "voice": target} for name, target in self._aliases.items()
        }
        for name in self._registered():
            found[name] = {"id": name, "name": name, "type": "registered"}
        for record in self.uploaded(tenant):
            created = {"object": "audio.voice", "created_at": record.created_at}
            found[record.name] = {"id": record.name, "name": record.name, "type": "uploaded", **created}
        return [found[name] for name in sorted(found)]

    def uploaded(self, tenant: str) -> list[Uploaded]:
        """Return the records of a tenant's own voices."""
        records = (read_record(path) for path in (self.folder.glob("u-*.json") if self.folder else ()))
        return [record for record in records if record and record.tenant == tenant]

    def has_registered(self, name: str) -> bool:
        """True if the operator has a voice of this name."""
        return not _UPLOADED.fullmatch(name) and self._exists(name)

    def has_uploaded(self, name: str, tenant: str) -> bool:
        """True if the tenant has a voice of this name."""
        return self._exists(uploaded_name(tenant, name))

    def _exists(self, name: str) -> bool:
        return self.folder is not None and any((self.folder / (name + suffix)).exists() for suffix in _CLIPS)

    def _registered(self) -> Iterator[str]:
        with suppress(OSError):
            for file in self.folder.iterdir() if self.folder else ():
                if file.suffix in _CLIPS and VOICE_NAME.fullmatch(file.stem) and not _UPLOADED.fullmatch(file.stem):
                    yield file.stem


def uploaded_name(tenant: str, name: str) -> str:
    """Return the name in the folder of a tenant's voice."""
    return "u-" + hashlib.sha256(f"{tenant}\0{name}".encode()).hexdigest()[:40]


def read_aliases(entries: Sequence[str]) -> dict[str, str]:
    """Return the alias table with entries such as `alloy=anna` or `echo=speaker:1`; an empty target removes an alias.

    Raises:
        ValueError: an entry has another form; the message names it.
    """
    table = dict(DEFAULT_ALIASES)
    for entry in entries:
        name, equals, target = entry.partition("=")
        speaker = _SPEAKER.fullmatch(target)
        named = VOICE_NAME.fullmatch(target) or (speaker and int(speaker[1]) <= INPUTS["SPEAKER"].high)
        if not (equals and VOICE_NAME.fullmatch(name) and (named or not target)):
            raise ValueError(f"an alias must be NAME=VOICE or NAME=speaker:N, got {entry[:80]!r}")
        table[name] = target
    return {name: target for name, target in table.items() if target}


def read_record(path: Path) -> Uploaded | None:
    """Return the record in a file; None if it is none."""
    try:
        with path.open("rb") as file:
            record = Uploaded(**json.loads(file.read(MAX_RECORD)))
    except (OSError, ValueError, TypeError):
        return None
    return record if isinstance(record.name, str) and isinstance(record.created_at, int) else None


def write_record(path: Path, name: str, tenant: str, consent: str) -> Uploaded:
    """Write the record of a new voice; return it. Raises OSError."""
    record = Uploaded(name, tenant, consent, int(time.time()))
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(asdict(record)))
    draft.replace(path)
    return record
