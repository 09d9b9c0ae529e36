"""The client for asyncio: `misotts_client.client` with `async` and `await`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from misotts_client.errors import Cancelled
from misotts_client.request import SpeechRequest, as_request, hurried
from misotts_client.speech import Chunk, Recording, Speech
from misotts_client.transport import (
    ChunkReader,
    call_metadata,
    call_timeout_s,
    error_from_rpc,
    infer_request,
    open_channel,
    session_metadata,
)


class AsyncClient:
    """A connection to a server, shared by any number of streams of the event loop in which it is constructed.

    Args:
        url: host and gRPC port of the server, behind `https://` for TLS. Nothing is sent until the first stream. Calls
            take turns among the addresses of a name, and of a list `10.0.0.1:8001,10.0.0.2:8001`.
        api_key: the key that the server asks for, if it does.
        ca: PEM file of the certificates to trust, with TLS.
        metadata: further metadata of every call.

    Raises:
        ValueError: `url`, `ca` or `metadata` cannot be used.
        OSError: `ca` cannot be read.
    """

    def __init__(
        self,
        url: str = "localhost:8001",
        api_key: str | None = None,
        *,
        ca: Path | str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self._metadata = call_metadata(api_key, metadata)
        self._closed = asyncio.Event()
        self._channel = open_channel(grpc.aio, url, ca)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def stream(self, request: SpeechRequest | str, **fields: Any) -> "AsyncStream":
        """See `misotts_client.client.Client.stream`."""
        asked = as_request(request, fields)
        call = self._stub.ModelStreamInfer(
            iter([infer_request(asked)]),
            timeout=call_timeout_s(asked),
            metadata=(*self._metadata, *session_metadata(asked)),
        )
        return AsyncStream(call, self.url, self._closed)

    async def speak(self, request: SpeechRequest | str, **fields: Any) -> Speech:
        """See `misotts_client.client.Client.speak`."""
        recording = Recording()
        async with self.stream(hurried(as_request(request, fields))) as stream:
            async for chunk in stream:
                recording.add(chunk)
        return recording.speech()

    async def close(self) -> None:
        """Close the connection; streams still running are cancelled."""
        self._closed.set()
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncStream(AsyncIterator[Chunk]):
    """The chunks of one utterance, in order; iterating raises a `MisoError` if speech ends early.

    Leaving its `async with` block before the end cancels it; so does cancelling the task that iterates.
    """

    def __init__(self, call: Any, url: str, closed: asyncio.Event) -> None:
        """`closed` is set when the client is closed."""
        self._call = call
        self._url = url
        self._closed = closed
        self._cancelled = False
        self._chunks = _chunks(call, url)

    async def __anext__(self) -> Chunk:
        try:
            return await anext(self._chunks)
        except asyncio.CancelledError:
            # gRPC raises this for our own cancel and close too; no task is being cancelled then.
            if self._cancelled or self._closed.is_set():
                raise Cancelled(f"{self._url}: the stream was cancelled") from None
            raise

    def cancel(self) -> None:
        """Stop the utterance at the server; iterating then raises `Cancelled`. After the end it does nothing."""
        self._cancelled = True
        self._call.cancel()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()


async def _chunks(call: Any, url: str) -> AsyncIterator[Chunk]:
    reader = ChunkReader()
    try:
        async for response in call:  # also after the end of speech, so that the server ends the stream by itself
            chunk = reader.read(response)
            if chunk is not None:
                yield chunk
    except grpc.RpcError as error:
        if not reader.finish:
            raise error_from_rpc(error, url) from None
    finally:
        call.cancel()
    reader.end()
