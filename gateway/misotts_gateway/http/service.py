"""What the HTTP protocols share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from misotts_gateway.callers import Caller, Callers
from misotts_gateway.core import Core
from misotts_gateway.options import GatewayOptions
from misotts_gateway.text.lexicon import Lexicon, read_lexicon
from misotts_gateway.text.normalize import AVAILABLE, LANGUAGES, load_normalizer
from misotts_gateway.text.plan import TextSettings
from misotts_gateway.voices.library import VoiceLibrary
from misotts_gateway.voices.names import VoiceNames, read_aliases

THREADS = min(8, max(2, os.cpu_count() or 2))
"""One for every core that encodes; more would only wait for each other."""


@dataclass
class Service:
    """The parts of the gateway that a protocol needs.

    Attributes:
        core: serves checked requests.
        callers: tells callers apart.
        text: what the operator has set for texts.
        voices: finds voices by name.
        library: adds and removes voices; None if callers may not.
        threads: where texts are split and audio is encoded.
        anyone_uploads: True if callers without a key may add voices.
        allowed_origins: origins whose pages may call this server, such as `https://app.example`; `*` is every origin.
        busy: number of requests that are being answered.
    """

    core: Core
    callers: Callers
    text: TextSettings
    voices: VoiceNames
    library: VoiceLibrary | None
    threads: Executor
    anyone_uploads: bool = False
    allowed_origins: tuple[str, ...] = ()
    busy: int = 0

    def may_upload(self, caller: Caller) -> bool:
        """True if the caller may add and remove voices of its own."""
        allowed = caller.key.voices if caller.key else self.anyone_uploads
        return self.library is not None and allowed

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse a WebSocket that a page of another origin opens without a key: a browser asks nothing before it.

        Raises:
            ForbiddenOrigin: the page's origin is neither this server's nor allowed.
        """
        origin = connection.headers.get("origin", "")
        host = origin.partition("://")[2]
        allowed = {"*", origin} & set(self.allowed_origins)
        if not (not origin or allowed or self.callers.keys_required or host == connection.headers.get("host")):
            raise ForbiddenOrigin(f"pages of {origin[:80]} may not call this server")

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count a request for as long as the block runs."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    @property
    def max_body(self) -> int:
        """Bytes of the largest JSON body: every code point of the longest text as two escapes, and other fields."""
        return 12 * self.text.max_input + 2**16


class ForbiddenOrigin(Exception):  # noqa: N818 (named after what it is)
    """A page of another origin may not call this server; the message names the origin."""


class OptionError(ValueError):
    """An option of HTTP cannot be used as it is. The message is one line."""


def make_service(options: GatewayOptions, core: Core, callers: Callers) -> Service:
    """Return what the options ask for. Call it in the event loop.

    Raises:
        OptionError: an option cannot be used; the message names it.
    """
    with _named("--voice-alias"):
        aliases = read_aliases(options.voice_aliases)
    with _named("--lexicon"):
        lexicon = read_lexicon(options.lexicon) if options.lexicon else Lexicon({}, {})
    with _named("--normalize"):
        # Requests may ask for it by themselves where it is installed.
        normalizer = load_normalizer(options.normalize or LANGUAGES[0]) if options.normalize or AVAILABLE else None
    voices = VoiceNames(options.voices, aliases, remote=not core.is_private)
    uploads = options.allow_voice_uploads or (options.api_keys is not None and options.voices is not None)
    with _named("--allow-voice-uploads"):
        library = VoiceLibrary(voices) if uploads else None
    return Service(
        core=core,
        callers=callers,
        text=TextSettings(lexicon, normalizer, options.normalize is not None, options.max_input),
        voices=voices,
        library=library,
        threads=ThreadPoolExecutor(THREADS, "http"),
        anyone_uploads=options.allow_voice_uploads,
        allowed_origins=options.allowed_origins,
    )


@contextmanager
def _named(option: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise OptionError(f"{option}: {error}") from None
