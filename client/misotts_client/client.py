"""The blocking client: see `misotts_client.aio` for asyncio."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

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


class Client:
    """A connection to a server, shared by any number of streams and threads.

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
        self._channel = open_channel(grpc, url, ca)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def stream(self, request: SpeechRequest | str, **fields: Any) -> "Stream":
        """Send the request and return its stream of chunks at once.

        Args:
            request: a text, or a complete request.
            fields: fields of `SpeechRequest` to set, such as `voice="anna"`.

        Raises:
            InvalidArgument: a value does not fit its tensor. The stream raises the errors of the server.
        """
        asked = as_request(request, fields)
        # The iterator ends after one request, which closes our side; the server then ends the stream by itself.
        call = self._stub.ModelStreamInfer(
            iter([infer_request(asked)]),
            timeout=call_timeout_s(asked),
            metadata=(*self._metadata, *session_metadata(asked)),
        )
        return Stream(call, self.url)

    def speak(self, request: SpeechRequest | str, **fields: Any) -> Speech:
        """Return the whole utterance; arguments as for `stream`. Without `lead_ms` it is 0: the server waits for no
        listener.

        Raises:
            MisoError: the request was refused, or speech ended early.
        """
        recording = Recording()
        with self.stream(hurried(as_request(request, fields))) as stream:
            for chunk in stream:
                recording.add(chunk)
        return recording.speech()

    def close(self) -> None:
        """Close the connection; streams still running are cancelled."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(Iterator[Chunk]):
    """The chunks of one utterance, in order; iterating raises a `MisoError` if speech ends early.

    Leaving its `with` block before the end cancels it. One thread iterates; any thread may cancel.
    """

    def __init__(self, call: Any, url: str) -> None:
        self._call = call
        self._chunks = _chunks(call, url)

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def cancel(self) -> None:
        """Stop the utterance at the server; iterating then raises `Cancelled`. After the end it does nothing."""
        self._call.cancel()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


def _chunks(call: Any, url: str) -> Iterator[Chunk]:
    reader = ChunkReader()
    try:
        for response in call:  # also after the end of speech, so that the server ends the stream by itself
            chunk = reader.read(response)
            if chunk is not None:
                yield chunk
    except grpc.RpcError as error:
        if not reader.finish:
            raise error_from_rpc(error, url) from None
    finally:
        call.cancel()
    reader.end()
