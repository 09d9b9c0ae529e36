"""The private side: calls of the Triton behind the gateway, or of another gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from misotts_client.contract import MODEL_NAME
from misotts_gateway.request import ModelLimits, model_limits

SERVICE = "/inference.GRPCInferenceService/"
"""Triton's service: what stands before the names of its methods."""
METHOD = SERVICE + "ModelStreamInfer"
MODEL_CONFIG = SERVICE + "ModelConfig"
READY = SERVICE + "ServerReady"

CALLS_PER_CHANNEL = 100
"""Calls of one connection: another gateway takes `STREAMS_PER_CONNECTION`, and more would wait without a word."""

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),  # its larger windows would hold seconds of audio for every caller that does not read
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else channels of the same address share a connection
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class Upstream:
    """Connections to one server; another one is opened when those that exist are full.

    Attributes:
        private: True for a private Triton of this machine, False for another gateway.
        run: the run folder, which holds the private Triton's sockets; None if the server is another gateway.
    """

    def __init__(self, target: str) -> None:
        """`target`: `unix:PATH` or HOST:PORT."""
        self._target = target
        self.private = target.startswith("unix:")
        self.run = Path(target.removeprefix("unix:")).parent if self.private else None
        self._options = _OPTIONS if self.private else _OPTIONS + _KEEPALIVE
        self._channels: list[grpc.aio.Channel] = []
        self._calls: dict[grpc.aio.Channel, int] = {}

    @asynccontextmanager
    async def call(self, message: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> AsyncIterator[Any]:
        """Send a serialized `ModelInferRequest`; the block gets the call, which iterates over serialized responses.

        The call is cancelled when the block ends, which does nothing after its end.
        """
        channel = self._channel()
        self._calls[channel] += 1
        # One request, after which our side is closed: on the wire a call of a streaming method with a single message.
        call = channel.unary_stream(METHOD)(message, metadata=metadata)
        try:
            yield call
        finally:
            call.cancel()
            self._calls[channel] -= 1

    async def ready(self) -> bool:
        """True if another gateway says that it takes requests."""
        try:
            return bool(await self._channel().unary_unary(READY)(b"", timeout=2) == b"\x08\x01")
        except grpc.aio.AioRpcError:
            return False

    async def model_limits(self) -> ModelLimits | None:
        """Return the limits of another gateway's model; None if it does not tell them."""
        request = service_pb2.ModelConfigRequest(name=MODEL_NAME).SerializeToString()
        try:
            answer = await self._channel().unary_unary(MODEL_CONFIG)(request, timeout=2)
            parameters = service_pb2.ModelConfigResponse.FromString(answer).config.parameters
        except (grpc.aio.AioRpcError, DecodeError):
            return None
        return model_limits({name: parameter.string_value for name, parameter in parameters.items()})

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def _channel(self) -> grpc.aio.Channel:
        for channel in self._channels:
            if self._calls[channel] < CALLS_PER_CHANNEL:
                return channel
        channel = grpc.aio.insecure_channel(self._target, options=self._options)
        self._channels.append(channel)
        self._calls[channel] = 0
        return channel
