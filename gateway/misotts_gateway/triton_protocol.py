"""gRPC as Triton's clients speak it: streaming inference of the model `misotts`, health and metadata."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2, service_pb2

from misotts_client.contract import INPUTS, MODEL_NAME, OUTPUTS, Field
from misotts_client.errors import Internal, MisoError, Unavailable
from misotts_gateway import request as requests
from misotts_gateway.callers import REQUEST_ID, Caller, Callers
from misotts_gateway.core import Core
from misotts_gateway.errors import UnknownKey, status_of
from misotts_gateway.limits import FIRST_REQUEST_S, HALF_CLOSE_S, IDLE_CALL_S, STALLED_S, UTTERANCES_PER_CALL
from misotts_gateway.upstream import METHOD, MODEL_CONFIG, READY, SERVICE
from misotts_gateway.wire import MalformedError, fields

log = logging.getLogger(__name__)

HEALTH = "/grpc.health.v1.Health/Check"
WANTS_STATUS = "triton_grpc_error"
PUSHBACK = "grpc-retry-pushback-ms"
VERSION = "1"

_TRUE, _FALSE = b"\x08\x01", b"\x08\x00"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"

Handler = Callable[[bytes, Any], Awaitable[bytes]]


class TritonProtocol(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The handlers of the public gRPC port. Requests and responses are bytes: see `misotts_gateway.request`."""

    def __init__(self, core: Core, callers: Callers, ready: Callable[[], bool]) -> None:
        """`ready()` returns True if the server takes requests."""
        self._core, self._callers, self._ready = core, callers, ready
        self.calls: set[Call] = set()
        """Streaming calls."""
        unary: dict[str, Handler] = {
            SERVICE + "ServerLive": self._live,
            READY: self._is_ready,
            SERVICE + "ModelReady": self._model_is_ready,
            SERVICE + "ServerMetadata": self._server_metadata,
            SERVICE + "ModelMetadata": self._model_metadata,
            MODEL_CONFIG: self._model_config,
            SERVICE + "ModelInfer": self._infer,
            HEALTH: self._health,
        }
        self._methods = {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in unary.items()}
        self._methods[METHOD] = grpc.stream_stream_rpc_method_handler(self._stream)

    @property
    def busy(self) -> bool:
        """True while any request is served."""
        return any(call.busy for call in self.calls)

    def service(self, details: Any) -> Any:
        """Return the handler of a method; None makes gRPC answer UNIMPLEMENTED."""
        method = self._methods.get(details.method)
        if method is None:
            self._core.counts.refused.labels("method").inc()
        return method

    async def _stream(self, _: Any, context: Any) -> None:
        try:
            caller = identify(self._callers, context)
        except UnknownKey as error:
            self._core.refused(error)
            await abort(context, error, "")
            return
        call = Call(self._core, caller, context)
        self.calls.add(call)
        try:
            await call.run()
        finally:
            self.calls.discard(call)

    async def _live(self, _: bytes, context: Any) -> bytes:
        return _TRUE

    async def _is_ready(self, _: bytes, context: Any) -> bytes:
        return _TRUE if self._ready() else _FALSE

    async def _model_is_ready(self, data: bytes, context: Any) -> bytes:
        await _check_model(data, context)
        return _TRUE if self._ready() else _FALSE

    async def _health(self, data: bytes, context: Any) -> bytes:
        return _SERVING if self._ready() else _NOT_SERVING

    async def _server_metadata(self, _: bytes, context: Any) -> bytes:
        return _bytes(service_pb2.ServerMetadataResponse(name=MODEL_NAME, version=VERSION))

    async def _model_metadata(self, data: bytes, context: Any) -> bytes:
        await _check_model(data, context)
        metadata = service_pb2.ModelMetadataResponse(name=MODEL_NAME, versions=[VERSION], platform="ensemble")
        for listed, table in ((metadata.inputs, INPUTS), (metadata.outputs, OUTPUTS)):
            for name, field in table.items():
                listed.add(name=name, datatype=field.datatype, shape=_dims(field))
        return _bytes(metadata)

    async def _model_config(self, data: bytes, context: Any) -> bytes:
        await _check_model(data, context)
        config = model_config_pb2.ModelConfig(name=MODEL_NAME, platform="ensemble")
        config.model_transaction_policy.decoupled = True
        types = {name: f"TYPE_{'STRING' if name == 'BYTES' else name}" for name in ("BYTES", "INT32", "INT64", "FP32")}
        for name, field in INPUTS.items():
            data_type = types[field.datatype]
            config.input.add(name=name, data_type=data_type, dims=_dims(field), optional=name != "TEXT")
        for name, field in OUTPUTS.items():
            config.output.add(name=name, data_type=types[field.datatype], dims=_dims(field))
        for name, number in vars(self._core.model).items():
            config.parameters[name].string_value = str(number)
        return _bytes(service_pb2.ModelConfigResponse(config=config))

    async def _infer(self, data: bytes, context: Any) -> bytes:
        text = f"the model {MODEL_NAME!r} streams: call ModelStreamInfer"
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
        raise AssertionError


class Call:
    """One call of ModelStreamInfer: any number of requests, each answered by its own task."""

    def __init__(self, core: Core, caller: Caller, context: Any) -> None:
        self._core, self._caller, self._context = core, caller, context
        metadata = context.invocation_metadata() or ()
        self._wants_status = [value for key, value in metadata if key == WANTS_STATUS] == ["true"]
        self._closed = asyncio.Event()
        """Set when the caller has closed its side."""
        self._end: asyncio.Future[MisoError] = asyncio.get_running_loop().create_future()
        """Done when the call is to end with an error's status."""
        self._writing = asyncio.Lock()  # of two writes at once gRPC loses one without a word
        self._written = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.began = time.monotonic()
        self.requests = 0
        """Number of requests that have come."""

    @property
    def busy(self) -> bool:
        """True while a request is served."""
        return bool(self._tasks)

    @property
    def closed(self) -> bool:
        """True once the caller has closed its side."""
        return self._closed.is_set()

    def end(self, error: MisoError) -> None:
        """End the call with the error's status, whatever it does."""
        if not self._end.done():
            self._end.set_result(error)

    async def run(self) -> None:
        """Serve the call to its end."""
        try:
            await self._read_requests()
            while self._tasks and not self._end.done():
                await self._wait_for_any(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        if self._end.done():
            await abort(self._context, self._end.result(), self._caller.request_id)

    async def _read_requests(self) -> None:
        """Read requests until the caller closes its side or the call is to end."""
        while not self._end.done():
            reading = asyncio.ensure_future(self._context.read())
            while not reading.done():
                patience_s = IDLE_CALL_S if self.requests else FIRST_REQUEST_S
                await self._wait_for_any([reading], patience_s)
                if not (reading.done() or self._end.done() or self._tasks):
                    self._core.counts.refused.labels("silent_call").inc()
                    self.end(Unavailable("no request came in time"))
                if self._end.done():
                    reading.cancel()
                    return
            data = reading.result()
            if data is grpc.aio.EOF:
                self._closed.set()
                return
            self.requests += 1
            task = asyncio.create_task(self._answer(data))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            while len(self._tasks) >= UTTERANCES_PER_CALL and not self._end.done():
                await self._wait_for_any(self._tasks)

    async def _wait_for_any(self, tasks: Iterable[asyncio.Future[Any]], timeout_s: float | None = None) -> None:
        """Wait until a task is done, or the call is to end, or time is over."""
        waits: set[asyncio.Future[Any]] = {*tasks, self._end}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    async def _answer(self, data: bytes) -> None:
        id = ""
        try:
            try:
                asked = requests.read(data, self._core.model)
            except MisoError as error:
                self._core.refused(error)
                id = requests.request_id(data)
                raise
            id = asked.id
            del data
            async with aclosing(self._core.speak(asked, self._caller)) as pieces:
                async for piece in pieces:
                    await self._write(piece.data)
        except MisoError as error:
            await self._refuse(error, id)
        except asyncio.CancelledError:
            # While the call goes on, `Core.end_stalled` alone cancels this task. The last message may be lost.
            self.end(Unavailable(f"nothing was taken while audio waited for {STALLED_S:g} s"))
            raise
        except grpc.aio.InternalError:
            pass  # the caller has left in the middle of a write
        except Exception:
            log.exception("request %s failed", self._caller.request_id)
            await self._refuse(Internal("the gateway failed"), id)

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            if not self._written:
                self._written = True
                await self._context.send_initial_metadata(((REQUEST_ID, self._caller.request_id),))
            await self._context.write(data)

    async def _refuse(self, error: MisoError, id: str) -> None:
        """Answer with an error: by the call's status where the caller expects it and nothing has been sent, in the
        stream otherwise."""
        if self.requests == 1 and not self._written and not self._wants_status:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closed.wait(), HALF_CLOSE_S)
        if self._wants_status or (self.requests == 1 and not self._written and self._closed.is_set()):
            self.end(error)
            return
        response = service_pb2.ModelStreamInferResponse(error_message=str(error))
        response.infer_response.id = id
        with contextlib.suppress(grpc.aio.InternalError):  # the caller has left
            await self._write(_bytes(response))


async def abort(context: Any, error: MisoError, request_id: str) -> None:
    """End a call with the status of an error, before any initial metadata if nothing has been sent: only such a call
    is tried again by proxies."""
    metadata = [(REQUEST_ID, request_id)] if request_id else []
    if isinstance(error, Unavailable) and error.retry_after_s is not None:
        metadata.append((PUSHBACK, str(round(error.retry_after_s * 1000))))
    await context.abort(status_of(error), str(error), tuple(metadata))


def identify(callers: Callers, context: Any) -> Caller:
    """Return the caller of a gRPC call.

    Raises:
        UnknownKey: see `Callers.identify`.
    """
    headers: dict[str, list[str]] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            headers.setdefault(name, []).append(value)
    return callers.identify(peer_address(context.peer()), headers)


def peer_address(peer: str) -> str:
    """Return the address in gRPC's name of a peer, such as `ipv4:1.2.3.4:5` or `ipv6:%5B::1%5D:5`."""
    return unquote(peer.partition(":")[2])


async def _check_model(data: bytes, context: Any) -> None:
    """Abort a call that is about another model."""
    try:
        named = {number: bytes(value).decode() for number, value in fields(memoryview(data), 8) if number < 3}
    except (MalformedError, ValueError, TypeError):
        named = {}
    name, version = named.get(1, ""), named.get(2, "")
    if name != MODEL_NAME or version not in requests.VERSIONS:
        text = f"NOT_FOUND: the model is {MODEL_NAME!r}, version '1', got {name[:80]!r}, version {version[:8]!r}"
        await context.abort(grpc.StatusCode.NOT_FOUND, text)


def _dims(field: Field) -> list[int]:
    """Return a tensor's shape as Triton writes it: -1 is any number of elements."""
    return [1 if field.size == "1" else -1]


def _bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString())
