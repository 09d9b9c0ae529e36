"""A relay before a server's gRPC port that keeps what each call has given: for tests/clients."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from misotts_gateway.upstream import METHOD

Samples = npt.NDArray[np.int16]


@dataclass(eq=False)
class Recorded:
    """A call of ModelStreamInfer: the TEXT of its only request, and the AUDIO that has come so far, float32 bytes."""

    text: str
    audio: bytearray = field(default_factory=bytearray)

    @property
    def samples(self) -> Samples:
        return rounded(np.frombuffer(bytes(self.audio), "<f4"))


def rounded(audio: npt.NDArray[np.float32]) -> Samples:
    """Return samples as 16 bits: cut to -1 and 1, times 32,767 in float32, to the nearest step (halves to even)."""
    return np.rint(audio.clip(-1, 1) * np.float32(32_767)).astype(np.int16)


class Relay(grpc.GenericRpcHandler):
    """Passes calls with their metadata to a server, and its answers back.

    Attributes:
        url: host and port.
        calls: all calls of ModelStreamInfer so far, in the order in which they came.
    """

    def __init__(self, server: str) -> None:
        self.url = ""
        self.calls: list[Recorded] = []
        self._channel = grpc.insecure_channel(server, options=[("grpc.enable_http_proxy", 0)])

    def service(self, details: Any) -> Any:
        """Return the handler of a method."""
        if details.method == METHOD:
            return grpc.unary_stream_rpc_method_handler(self._infer)  # another gateway sends one request and closes
        method = self._channel.unary_unary(details.method)
        return grpc.unary_unary_rpc_method_handler(lambda data, context: method(data, timeout=10))

    def _infer(self, data: bytes, context: Any) -> Iterator[bytes]:
        request = service_pb2.ModelInferRequest.FromString(data)
        kept = Recorded(_raw(request.inputs, request.raw_input_contents)["TEXT"][4:].decode())
        self.calls.append(kept)
        told = tuple(each for each in context.invocation_metadata() if each[0] != "user-agent")
        call = self._channel.unary_stream(METHOD)(data, metadata=told)
        context.add_callback(call.cancel)
        try:
            for answer in call:
                response = service_pb2.ModelStreamInferResponse.FromString(answer).infer_response
                kept.audio += _raw(response.outputs, response.raw_output_contents).get("AUDIO", b"")
                yield answer
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())


def _raw(tensors: Any, contents: Any) -> dict[str, bytes]:
    return dict(zip((tensor.name for tensor in tensors), contents, strict=False))


@contextmanager
def relay(server: str) -> Iterator[Relay]:
    """Run a relay before the gRPC port `server` on a free port."""
    made, threads = Relay(server), ThreadPoolExecutor(64)
    listener = grpc.server(threads, handlers=[made])
    made.url = f"127.0.0.1:{listener.add_insecure_port('127.0.0.1:0')}"
    listener.start()
    try:
        yield made
    finally:
        listener.stop(None).wait()
        threads.shutdown()
