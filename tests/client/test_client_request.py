"""The tensors of a request, read back from the protobuf message."""

from typing import Any, cast

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from misotts_client import InvalidArgument, Segment, SpeechRequest
from misotts_client.request import as_request
from misotts_client.transport import infer_request

DTYPES = {"INT32": "<i4", "INT64": "<i8", "FP32": "<f4"}


def tensors(request: SpeechRequest) -> dict[str, Any]:
    """Return datatype and values of every input by name, from the bytes on the wire."""
    message = service_pb2.ModelInferRequest.FromString(infer_request(request).SerializeToString())
    assert message.model_name == "misotts"
    assert not message.parameters
    found = {}
    for head, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        if head.datatype == "BYTES":
            values = [text.decode() for text in deserialize_bytes_tensor(raw)]
        else:
            values = np.frombuffer(raw, DTYPES[head.datatype]).tolist()
        assert list(head.shape) == [len(values)]
        found[head.name] = (head.datatype, values)
    return found


def test_only_the_given_fields_are_sent() -> None:
    assert tensors(SpeechRequest("Hi ☕")) == {"TEXT": ("BYTES", ["Hi ☕"])}


def test_every_field() -> None:
    context = [
        Segment("one", 0, np.array([0.0, 0.5], np.float32)),
        Segment("zwei", 3, np.array([-1.0, 0.25, 1.0], np.float64)),
    ]
    top_k = cast(int, np.int32(-(2**31)))  # the server checks the limits
    limits: dict[str, Any] = dict(seed=-(2**63), max_audio_ms=160_000, chunk_frames=0, timeout_ms=2**31 - 1)
    request = SpeechRequest("now", speaker=99, voice="anna", context=context, temperature=0.5, top_k=top_k, **limits)
    assert tensors(request) == {
        "TEXT": ("BYTES", ["now"]),
        "SPEAKER": ("INT32", [99]),
        "VOICE": ("BYTES", ["anna"]),
        "CONTEXT_TEXT": ("BYTES", ["one", "zwei"]),
        "CONTEXT_SPEAKER": ("INT32", [0, 3]),
        "CONTEXT_SAMPLES": ("INT32", [2, 3]),
        "CONTEXT_AUDIO": ("FP32", [0.0, 0.5, -1.0, 0.25, 1.0]),
        "TEMPERATURE": ("FP32", [0.5]),
        "TOP_K": ("INT32", [-(2**31)]),
        "SEED": ("INT64", [-(2**63)]),
        "MAX_AUDIO_MS": ("INT32", [160_000]),
        "CHUNK_FRAMES": ("INT32", [0]),
        "TIMEOUT_MS": ("INT32", [2**31 - 1]),
    }


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("TEXT", {"text": "\ud800"}),
        ("TEXT", {"text": b"bytes"}),
        ("VOICE", {"voice": 3}),
        ("SPEAKER", {"speaker": 2**31}),
        ("SPEAKER", {"speaker": 1.5}),
        ("TOP_K", {"top_k": "50"}),
        ("SEED", {"seed": 2**63}),
        ("TEMPERATURE", {"temperature": 1e300}),
        ("TEMPERATURE", {"temperature": "hot"}),
        ("CONTEXT_AUDIO", {"context": [Segment("a", 0, np.zeros((1, 10), np.float32))]}),
        ("CONTEXT_AUDIO", {"context": [Segment("a", 0, np.zeros(10, np.int16))]}),
        ("CONTEXT_SPEAKER", {"context": [Segment("a", -(2**40), np.zeros(10, np.float32))]}),
        ("CONTEXT_TEXT", {"context": [Segment(cast(str, None), 0, np.zeros(10, np.float32))]}),
    ],
)
def test_a_value_that_no_tensor_can_hold_is_refused_with_its_field(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        infer_request(SpeechRequest(**{"text": "x", **values}))
    assert caught.value.field == field


def test_fields_are_added_to_a_text_or_replaced_in_a_request() -> None:
    assert as_request("a", {"seed": 3}) == SpeechRequest("a", seed=3)
    assert as_request(SpeechRequest("a", seed=3, voice="v"), {"seed": 4}) == SpeechRequest("a", seed=4, voice="v")
    with pytest.raises(TypeError):
        as_request("a", {"sead": 3})
