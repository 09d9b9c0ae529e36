"""Triton's gRPC protocol, for both clients: channel options, requests and responses as messages, status codes as
errors."""

import struct
from ipaddress import ip_address
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from misotts_client import errors
from misotts_client.contract import INPUTS, MODEL_NAME, OUTPUTS
from misotts_client.request import SpeechRequest
from misotts_client.speech import Chunk
from misotts_client.tensors import write_request

CHANNEL_OPTIONS = (
    # While a stream runs, a dead connection is noticed within 15 s of silence. Our server accepts pings 2 s apart;
    # Triton's own default treats pings closer than 300 s as abuse and hangs up.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # gRPC's default is 60 s
    ("grpc.http2.max_pings_without_data", 0),  # no limit: a queued caller may receive nothing for a minute
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted server is found again within seconds; gRPC's own limit is two minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

_GRACE_S = 2.0

_KINDS: dict[Any, type[errors.MisoError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
}


def open_channel(library: Any, url: str) -> Any:
    """Return a channel of `library` (`grpc` or `grpc.aio`) to `url`: HOST:PORT, or https://HOST:PORT for TLS.

    gRPC reads the certificates that it trusts from the file in GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, if that is set.
    """
    target = url.removeprefix("https://")
    options = [*CHANNEL_OPTIONS]
    if is_loopback(target):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy of `http_proxy` would look for it on its own machine
    if url != target:
        return library.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
    return library.insecure_channel(target, options=options)


def is_loopback(target: str) -> bool:
    """True if HOST:PORT is on this machine."""
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of every call: the API key, if there is one."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


def call_timeout_s(request: SpeechRequest) -> float | None:
    """Return the seconds after which the client gives up; None for never.

    The server enforces the request's own time limit; this later one is for a server that no longer answers.
    """
    return request.timeout_ms / 1000 + _GRACE_S if request.timeout_ms and request.timeout_ms > 0 else None


def error_from_rpc(error: Any, url: str) -> errors.MisoError:
    """Return the error for a gRPC call to `url` that ended with a status other than OK.

    A refusal before the first chunk has the error's text as the details of the status.
    """
    code, details = error.code(), error.details() or ""
    told = errors.error_from_text(details)
    if details == str(told):
        return told
    text = f"{url}: {details or code.name}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # the message is larger than the server takes
        return errors.InvalidArgument(None, text)
    return _KINDS.get(code, errors.Internal)(text)


def infer_request(request: SpeechRequest) -> Any:
    """Return the `ModelInferRequest` of a request, which holds only the inputs that were given.

    Raises:
        InvalidArgument: a value does not fit its tensor (an int beyond int32, audio that is not 1-d, ...).
    """
    message = service_pb2.ModelInferRequest(model_name=MODEL_NAME)
    for name, tensor in write_request(request).items():
        message.inputs.add(name=name, datatype=INPUTS[name].datatype, shape=tensor.shape)
        raw = serialize_byte_tensor(tensor).item() if tensor.dtype == np.object_ else tensor.tobytes()
        message.raw_input_contents.append(raw)
    return message


class ChunkReader:
    """Reads the responses of one stream, in order, and checks at its end that the speech is complete.

    Attributes:
        finish: FINISH of the last chunk; empty until it arrives.
    """

    def __init__(self) -> None:
        self.finish = ""

    def read(self, response: Any) -> Chunk | None:
        """Return the chunk in a `ModelStreamInferResponse`; None if it holds none, as after the end of speech.

        Raises:
            MisoError: the response is an error; its class is the one that the error's code names.
            Internal: the response does not have the contract's form.
        """
        if self.finish:
            return None
        if response.error_message:
            raise errors.error_from_text(response.error_message)
        if not response.infer_response.outputs:  # Triton's marker that no more responses come
            return None
        chunk = _parse(response.infer_response)
        self.finish = chunk.finish
        return None if errors.error_of(chunk.finish) else chunk

    def end(self) -> None:
        """Check the end of the stream.

        Raises:
            Unavailable: it ended before speech did.
            MisoError: speech ended with an error.
        """
        if not self.finish:
            raise errors.Unavailable("the server closed the stream before the end of speech")
        if error := errors.error_of(self.finish):
            raise error


def _parse(message: Any) -> Chunk:
    try:
        raw = {output.name: data for output, data in zip(message.outputs, message.raw_output_contents, strict=True)}
        # An older server lacks the newest output.
        given = {name: field for name, field in OUTPUTS.items() if name in raw or name != "SESSION_TURNS"}
        tensors = {name: _array(field.datatype, raw[name]) for name, field in given.items()}
        return Chunk(
            audio=tensors["AUDIO"].copy(),  # writable, and the message can go
            frame=tensors["FRAME"].item(),
            seed=tensors["SEED_USED"].item(),
            finish=tensors["FINISH"].item().decode(),
            session_turns=tensors["SESSION_TURNS"].item() if "SESSION_TURNS" in tensors else None,
        )
    except (LookupError, ValueError, struct.error) as error:
        raise errors.Internal(f"the server's response is not a chunk of speech ({error!r})") from None


def _array(datatype: str, raw: bytes) -> Any:
    return deserialize_bytes_tensor(raw) if datatype == "BYTES" else np.frombuffer(raw, triton_to_np_dtype(datatype))
