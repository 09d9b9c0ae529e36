"""Adds and removes voices for callers.

A clip of a stranger is decoded and checked by `misotts voices add` in a process of its own, with limits of time and
memory: what is accepted here is what the operator's command accepts, and a hostile file reaches nothing else.
"""

from __future__ import annotations

import asyncio
import importlib.util
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from misotts_client.errors import (
    DeadlineExceeded,
    FieldError,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    error_from_text,
)
from misotts_gateway.voices.names import Uploaded, VoiceNames, uploaded_name, write_record

AT_ONCE = 2
"""Clips that are checked at once."""
MAX_WAITING = 8
"""Clips that are checked or wait for it; each is held in memory."""
CHECK_S = 30.0
"""A clip takes about 1 s; a process that takes longer is ended."""
CHECK_MEMORY = 2 * 2**30
"""Bytes of address space of the process: libraries, and 30 s of 192 kHz in two channels as float64."""
VOICES_PER_TENANT = 64


class VoiceExists(Exception):  # noqa: N818 (named after HTTP's status Conflict)
    """The name is taken; the message says by which voice."""


class VoiceLibrary:
    """Changes the folder of voices.

    Args:
        names: finds the voices in the folder.

    Raises:
        ValueError: there is no folder here, or `misotts` is not installed.
    """

    def __init__(self, names: VoiceNames) -> None:
        if names.folder is None:
            raise ValueError("uploads of voices need --voices, the folder in which they are kept")
        if importlib.util.find_spec("misotts") is None:
            raise ValueError("uploads of voices need the package misotts on this machine, which checks them")
        self._names, self._folder = names, names.folder
        self._checking = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def add(self, name: str, tenant: str, clip: bytes, words: str, consent: str) -> Uploaded:
        """Add a voice of `tenant`; return its record.

        Raises:
            InvalidArgument: names `audio_sample` or `ref_text`, and says what is wrong with it.
            VoiceExists: the name is taken.
            Unavailable: too many clips wait.
            DeadlineExceeded: the clip took too long.
        """
        self._check_free(name, tenant)
        with self._place():
            async with self._checking:
                self._check_free(name, tenant)
                inner = uploaded_name(tenant, name)
                await self._add(inner, clip, words)
                return write_record(self._folder / f"{inner}.json", name, tenant, consent)

    async def remove(self, name: str, tenant: str) -> None:
        """Remove a voice of `tenant`.

        Raises:
            NotFound: the tenant has no voice of this name.
        """
        inner = uploaded_name(tenant, name)
        if not self._names.has_uploaded(name, tenant):
            raise NotFound("VOICE", f"you have no voice named {name[:80]!r}")
        for suffix in (".flac", ".txt", ".json"):  # the clip first: see misotts.prompt.voices
            (self._folder / (inner + suffix)).unlink(missing_ok=True)

    def _check_free(self, name: str, tenant: str) -> None:
        if self._names.has_registered(name):
            raise VoiceExists(f"{name!r} is a voice of this server's operator")
        if self._names.has_uploaded(name, tenant):
            raise VoiceExists(f"you have a voice named {name!r}; delete it first")
        if len(self._names.uploaded(tenant)) >= VOICES_PER_TENANT:
            raise VoiceExists(f"you have {VOICES_PER_TENANT} voices, the most of a tenant; delete one first")

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._waiting >= MAX_WAITING:
            raise Unavailable("too many voices wait to be checked; try again in 5 s", 5.0)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _add(self, inner: str, clip: bytes, words: str) -> None:
        with TemporaryDirectory(prefix="misotts-voice-") as draft:
            file = Path(draft, "clip")
            await asyncio.to_thread(file.write_bytes, clip)
            command = ["voices", "add", inner, str(file), "--text-file", "-", "--voices", str(self._folder)]
            status, complaint = await _run(command, words)
        if status == 0:
            return
        error = error_from_text(complaint)
        reason = error.message.rpartition(" is not usable: ")[2]
        if not isinstance(error, FieldError):
            raise Internal("the clip could not be checked")
        raise InvalidArgument("REF_TEXT" if reason.startswith("the text") else "AUDIO_SAMPLE", reason)


async def _run(command: list[str], text: str) -> tuple[int, str]:
    """Run a command of `misotts` with a text as its input; return its status and the last line of what it printed as an
    error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "misotts.cli", *command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (CHECK_MEMORY, CHECK_MEMORY))
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (int(CHECK_S), int(CHECK_S)))
        raw = text.encode("utf-8", "surrogatepass")
        _, complaint = await asyncio.wait_for(process.communicate(raw), CHECK_S)
    except asyncio.TimeoutError:
        raise DeadlineExceeded(f"the clip could not be checked within {CHECK_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    lines = complaint.decode(errors="replace").strip().splitlines()
    return process.returncode, lines[-1] if lines else ""
