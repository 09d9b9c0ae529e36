"""A request's bytes are checked before anything is made of them."""

import random
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from misotts_client import InvalidArgument, NotFound, Segment, SpeechRequest
from misotts_client.contract import INPUTS, check_request
from misotts_client.transport import infer_request
from misotts_gateway.core import fresh_message
from misotts_gateway.request import Asked, ModelLimits, read

LIMITS = ModelLimits()
FULL = SpeechRequest(
    "Hello there.",
    speaker=3,
    voice="ann",
    context=[
        Segment("One.", 0, np.full(700, 0.5, np.float32)),
        Segment("Two.", 1, np.zeros(9, np.float32)),
    ],
    temperature=0.5,
    top_k=20,
    seed=-(2**63),
    max_audio_ms=800,
    chunk_frames=4,
    timeout_ms=5000,
)


def fields(request: SpeechRequest) -> list[Any]:
    """All of a request that can be compared."""
    plain = [getattr(request, name.lower()) for name in INPUTS if not name.startswith("CONTEXT")]
    return plain + [(each.text, each.speaker, each.audio.tobytes()) for each in request.context]


def test_what_the_clients_send_is_read_and_made_again() -> None:
    for request in (SpeechRequest("Hello."), FULL):
        message = infer_request(request)
        message.id = "seven"
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        message.outputs.add(name="AUDIO")
        asked = read(message.SerializeToString(), LIMITS)
        assert fields(asked.request) == fields(request)
        assert (asked.id, asked.empty_final) == ("seven", True)
        fresh = service_pb2.ModelInferRequest.FromString(fresh_message(asked, 5))
        assert [each.name for each in fresh.inputs] == [*(each.name for each in message.inputs), "TICKET"]
        assert list(fresh.raw_input_contents[:-1]) == list(message.raw_input_contents)
        assert not fresh.outputs


def changed(**changes: Any) -> Any:
    message = infer_request(SpeechRequest("Hello.", seed=4))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def with_input(name: str, datatype: str, shape: list[int], raw: bytes) -> Any:
    message = changed()
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_input_contents.append(raw)
    return message


def with_output_parameter() -> Any:
    message = changed()
    message.outputs.add(name="AUDIO").parameters["classification"].int64_param = 3
    return message


def with_output(name: str) -> Any:
    message = changed()
    message.outputs.add(name=name)
    return message


def with_parameter(name: str) -> Any:
    message = changed()
    message.parameters[name].int64_param = 1
    return message


def with_contents() -> Any:
    message = service_pb2.ModelInferRequest(model_name="misotts")
    message.inputs.add(name="TEXT", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
    message.raw_input_contents.append(b"")
    return message


def with_shared_memory() -> Any:
    message = changed()
    message.inputs[0].parameters["shared_memory_region"].string_param = "x"
    return message


def text(*values: bytes) -> bytes:
    return bytes(serialize_byte_tensor(np.array(values, np.object_)).item())


REFUSED: dict[str, tuple[Any, str | None, str]] = {
    "another model": (changed(model_name="prompt"), None, "'misotts', got 'prompt'"),
    "another version": (changed(model_version="2"), None, "got '2'"),
    "a long id": (changed(id="x" * 129), None, "at most 128 bytes, got 129"),
    "an unknown input": (with_input("TICKET", "INT64", [1], bytes(8)), None, "got 'TICKET'"),
    "an input twice": (with_input("SEED", "INT64", [1], bytes(8)), "SEED", "twice"),
    "another type": (with_input("TOP_K", "INT64", [1], bytes(8)), "TOP_K", r"INT32 \[1\], got INT64 \[1\]"),
    "another shape": (with_input("TOP_K", "INT32", [1, 1], bytes(4)), "TOP_K", r"got INT32 \[1, 1\]"),
    "two elements": (with_input("TOP_K", "INT32", [2], bytes(8)), "TOP_K", r"INT32 \[1\], got INT32 \[2\]"),
    "a negative shape": (with_input("CONTEXT_SAMPLES", "INT32", [-1], b""), "CONTEXT_SAMPLES", "got 0"),
    "too few bytes": (with_input("TOP_K", "INT32", [1], bytes(3)), "TOP_K", "must be 4 bytes .*, got 3"),
    "a text one byte short": (
        with_input("VOICE", "BYTES", [1], text(b"ann")[:-1]),
        "VOICE",
        "3 bytes .* 2 are left",
    ),
    "a text of 4 GiB": (with_input("VOICE", "BYTES", [1], b"\xff\xff\xff\xffann"), "VOICE", "says 4294967295 bytes"),
    "bytes behind a text": (with_input("VOICE", "BYTES", [1], text(b"ann") + b"!"), "VOICE", "has 1 bytes behind"),
    "10 million texts": (with_input("CONTEXT_TEXT", "BYTES", [10**7], bytes(8)), "CONTEXT_TEXT", "10000000 elements"),
    "2 MB of texts": (with_input("CONTEXT_TEXT", "BYTES", [1], bytes(2**21)), "CONTEXT_TEXT", "at most 1048576 bytes"),
    "a long text": (with_input("CONTEXT_TEXT", "BYTES", [1], text(b"a" * 17_000)), "CONTEXT_TEXT", "got 17000 bytes"),
    "no text": (service_pb2.ModelInferRequest(model_name="misotts"), "TEXT", "required"),
    "contents": (with_contents(), "TEXT", "raw_input_contents"),
    "shared memory": (with_shared_memory(), "TEXT", "parameters"),
    "a parameter": (with_parameter("priority"), None, "got 'priority'"),
    "a classification": (with_output_parameter(), None, "outputs have no parameters"),
    "an unknown output": (with_output("SECRET"), None, "got 'SECRET'"),
    "millions of inputs": (b"\x2a\x00" * 4_000_000, None, "over 64 fields"),
    "half a message": (infer_request(FULL).SerializeToString()[:-5], None, "longer than its message"),
    "an unknown field": (infer_request(FULL).SerializeToString() + b"\x78\x01", None, "unknown field 15"),
    "nothing": (b"", None, "got ''"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_contract_does_not_have_is_refused(case: str) -> None:
    message, field, words = REFUSED[case]
    with pytest.raises((InvalidArgument, NotFound), match=words) as caught:
        read(message if isinstance(message, bytes) else message.SerializeToString(), LIMITS)
    assert caught.value.field == field
    assert len(str(caught.value)) < 400


def test_20_000_mutated_requests_are_refused_or_become_valid_ones() -> None:
    """Whatever is accepted becomes a message that protobuf reads, with inputs of the contract and within its limits."""
    rng = random.Random(16)
    seeds = [infer_request(request).SerializeToString() for request in (SpeechRequest("Hello."), FULL, FULL)]
    accepted = 0
    for _ in range(20_000):
        data = mutated(rng, rng.choice(seeds))
        try:
            asked = read(data, LIMITS)
        except (InvalidArgument, NotFound):
            continue
        accepted += 1
        check_valid(asked)
    assert 500 < accepted < 15_000


def mutated(rng: random.Random, seed: bytes) -> bytes:
    """Return a message with up to four changes, mostly in its first 300 bytes, where the structure is."""
    data = bytearray(seed)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        position = rng.randrange(min(len(data), 300 if rng.random() < 0.8 else len(data)) or 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[position:position] = rng.randbytes(rng.randint(1, 6))
        elif kind == 2:
            del data[position : position + rng.randint(1, 12)]
        elif kind == 3:
            data[position:position] = data[position : position + rng.randint(1, 40)]
        else:
            data[position : position + 1] = rng.choice([b"\xff\xff\xff\xff\x0f", b"\x80" * 11, b"\x00", b"\x7f"])
    return bytes(data)


def check_valid(asked: Asked) -> None:
    check_request(asked.request, LIMITS.audio_codes)
    message = service_pb2.ModelInferRequest.FromString(fresh_message(asked, None))
    assert {each.name for each in message.inputs} <= set(INPUTS)
    assert len(message.inputs) == len(message.raw_input_contents)
    assert fields(read(message.SerializeToString(), LIMITS).request) == fields(asked.request)
