"""A client of OpenAI's POST /v1/audio/speech, so that the same load measures any server that has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

import httpx2
import numpy as np

from misotts_client import Chunk, SpeechRequest
from misotts_client.contract import SAMPLE_RATE
from misotts_client.errors import MisoError, Unavailable

PATH = "/v1/audio/speech"
SILENT_S = 30.0
"""A call fails if nothing comes for this long."""
SAMPLE_BYTES = 2
ERROR_CHARS = 200
PCM_TYPES = ("", "audio/pcm", "audio/l16", "application/octet-stream")
"""Content types of headerless samples; the empty one is that of an answer without a type."""
OTHER_FORMATS = (b"RIFF", b"ID3", b"OggS", b"fLaC", b'{"')
"""The first bytes of files with headers and of JSON, which a server may send under any type."""


@dataclass(frozen=True)
class OpenAiServer:
    """A server, and what a request to it holds beside text and voice."""

    url: str
    """http://HOST:PORT, without the path."""
    model: str = "tts-1"
    voice: str = "alloy"
    """Voice of a call that names none."""
    key: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request."""


class StatusError(MisoError):
    """An answer with a status other than 200."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.code = f"HTTP_{status}"  # type: ignore[misc]


class NotPcmError(MisoError):
    """An answer that is not 16-bit samples at 24 kHz."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.code = "NOT_PCM"  # type: ignore[misc]  # of the instance: it is no code of the contract


class OpenAiClient:
    """Used as `misotts_client.AsyncClient` is. Audio is pcm, 24 kHz, 16 bits, as the server sends it; its chunks have
    no FRAME and no FINISH: see `AnswerCheck`."""

    def __init__(self, server: OpenAiServer) -> None:
        headers = {"authorization": f"Bearer {server.key or 'none'}"}
        # Every call has a connection of its own as soon as others are busy: none waits for another.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
        self._server = server
        self._http = httpx2.AsyncClient(base_url=server.url, headers=headers, limits=limits, timeout=SILENT_S)

    async def __aenter__(self) -> OpenAiClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def speak(self, text: str, **_: Any) -> None:
        """Speak a text and drop the audio.

        Raises:
            MisoError: the server does not answer, or not with PCM.
        """
        async with self.stream(SpeechRequest(text)) as chunks:
            async for chunk in chunks:
                del chunk

    @asynccontextmanager
    async def stream(self, request: SpeechRequest) -> AsyncIterator[AsyncIterator[Chunk]]:
        """Send the text and the voice of a request; the block gets the chunks as they come from the network.

        Raises:
            MisoError: the server refuses or does not send PCM, or the connection breaks.
        """
        server = self._server
        body = {"model": server.model, "input": request.text, "voice": request.voice or server.voice}
        try:
            async with self._http.stream(
                "POST", PATH, json={**body, "response_format": "pcm", **server.body}
            ) as response:
                if response.status_code != httpx2.codes.OK:
                    words = (await response.aread()).decode(errors="replace")
                    raise StatusError(response.status_code, words[:ERROR_CHARS])
                _check_type(response.headers)
                yield _chunks(response)
        except httpx2.HTTPError as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from None


def _check_type(headers: httpx2.Headers) -> None:
    """Refuse an answer by its content type, and by its sample rate where one is told.

    Raises:
        NotPcmError: the answer is another format.
    """
    described = Message()
    described["content-type"] = headers.get("content-type", "")
    # Message takes a type that it cannot read, such as an empty one, for text/plain.
    kind = described.get_content_type() if "/" in described["content-type"] else ""
    if kind not in PCM_TYPES:
        raise NotPcmError(f"content-type must be one of {', '.join(PCM_TYPES[1:])}, got {kind}")
    rate = described.get_param("rate") or headers.get("x-sample-rate") or str(SAMPLE_RATE)
    if rate != str(SAMPLE_RATE):
        raise NotPcmError(f"the sample rate must be {SAMPLE_RATE}, got {rate}")


async def _chunks(response: httpx2.Response) -> AsyncIterator[Chunk]:
    """Yield the samples as they come.

    Raises:
        NotPcmError: the audio begins as a file of another format, or ends within a sample.
    """
    rest, begun = b"", False
    async for data in response.aiter_bytes():
        if not begun and data.startswith(OTHER_FORMATS):
            raise NotPcmError(f"the audio must have no header, got {data[:4]!r}")
        begun = begun or bool(data)
        data = rest + data
        whole = len(data) - len(data) % SAMPLE_BYTES
        rest = data[whole:]
        if whole:
            yield Chunk(np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768, 0, 0, "")
    if rest:
        raise NotPcmError("the audio must be 16-bit samples, got an odd number of bytes")
    yield Chunk(np.zeros(0, np.float32), 0, 0, "eos")
