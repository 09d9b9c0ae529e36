"""Triton's gRPC protocol, for both clients: channel options, requests and responses as messages, status codes as
errors."""

import json
import re
import struct
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from misotts_client import errors
from misotts_client.contract import INPUTS, MODEL_NAME, OUTPUTS, SESSION_NAME
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

# The calls of a channel take turns among all addresses of a name, or of a list.
_BALANCED: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
# With a list of servers, a call that is refused before its first chunk goes to the next one. A server that names a time
# to come back is given it.
_RETRIED = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_LARGEST_REQUEST = 16 * 2**20
"""Bytes that gRPC keeps of a request to send it again."""

_METADATA_NAME = re.compile(r"[a-z0-9_.-]+(?<!-bin)")
_METADATA_VALUE = re.compile(r"[ -~]*")

SESSION = "x-misotts-session"
"""Metadata that proxies choose a server by: see docs/fleet.md."""

_GRACE_S = 2.0

_KINDS: dict[Any, type[errors.MisoError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
}


def open_channel(library: Any, url: str, ca: Path | str | None = None) -> Any:
    """Return a channel of `library` (`grpc` or `grpc.aio`).

    Args:
        url: HOST:PORT, or https://HOST:PORT for TLS. A name may have several addresses, and IP addresses may be a list
            of servers: HOST:PORT,HOST:PORT.
        ca: PEM file of the certificates to trust; None: those in GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, or gRPC's own.

    Raises:
        ValueError: `url` is not of this form, or `ca` is given without TLS.
        OSError: `ca` cannot be read.
    """
    addresses = url.removeprefix("https://").split(",")
    options: list[tuple[str, Any]] = [*CHANNEL_OPTIONS]
    target, service = addresses[0], _BALANCED
    if len(addresses) > 1:
        target = f"{_family(addresses)}:{','.join(addresses)}"
        service = _BALANCED | _RETRIED
        options.append(("grpc.per_rpc_retry_buffer_size", _LARGEST_REQUEST))
        options.append(("grpc.default_authority", addresses[0]))  # whose name TLS checks, for all of them
    options.append(("grpc.service_config", json.dumps(service)))
    if all(map(is_loopback, addresses)):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy of `http_proxy` would look for it on its own machine
    if url.startswith("https://"):
        credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes() if ca else None)
        return library.secure_channel(target, credentials, options=options)
    if ca:
        raise ValueError(f"a file of certificates needs TLS: write https://{url}")
    return library.insecure_channel(target, options=options)


def _family(addresses: list[str]) -> str:
    """Return gRPC's name of a list of addresses, `ipv4` or `ipv6`."""
    try:
        versions = {ip_address(each.rpartition(":")[0].strip("[]")).version for each in addresses}
    except ValueError:
        versions = set()
    if len(versions) != 1:
        words = "several servers must be IP addresses of one family, like 10.0.0.1:8001,10.0.0.2:8001"
        raise ValueError(f"{words}; got {','.join(addresses)}")
    return f"ipv{versions.pop()}"


def is_loopback(target: str) -> bool:
    """True if HOST:PORT is on this machine."""
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def call_metadata(api_key: str | None, metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of every call: the API key, and what the caller adds.

    Raises:
        ValueError: gRPC does not take one of the names or values.
    """
    added = tuple((metadata or {}).items())
    for name, value in added:
        if not (_METADATA_NAME.fullmatch(name) and _METADATA_VALUE.fullmatch(value)):
            words = "metadata must have a name of a-z 0-9 - _ . and a value in printable ASCII"
            raise ValueError(f"{words}; got {name!r} = {value!r}")
    return ((("authorization", f"Bearer {api_key}"),) if api_key else ()) + added


def session_metadata(request: SpeechRequest) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which proxies send a conversation to the server that keeps it."""
    named = request.session is not None and SESSION_NAME.fullmatch(request.session)  # the server refuses other names
    return ((SESSION, request.session),) if named and request.session else ()


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
    if code is grpc.StatusCode.INTERNAL and "RST_STREAM" in details:  # a proxy whose server has died
        return errors.Unavailable(f"{url}: the stream was cut before the end of speech")
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
