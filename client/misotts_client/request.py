"""A request for speech, and the protobuf message that carries it."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from misotts_client.errors import InvalidArgument

MODEL_NAME = "misotts"


@dataclass(frozen=True, eq=False)
class Segment:
    """An earlier piece of the conversation: what was said, by whom, and how it sounded.

    Attributes:
        text: the words of the clip.
        speaker: 0 to 99.
        audio: [samples] float32, 24 kHz mono, -1..1.
    """

    text: str
    speaker: int
    audio: npt.NDArray[np.float32]


@dataclass(frozen=True)
class SpeechRequest:
    """What to say and how. A field that is None is not sent: the server's default holds.

    Attributes:
        text: 1 to 4000 code points.
        speaker: 0 to 99; 0 by default.
        voice: name of a voice registered at the server; none by default.
        context: earlier segments, oldest first.
        temperature: 0 (greedy) to 2; 0.9 by default.
        top_k: 1 to the number of audio codes (2048); 50 by default.
        seed: any int64; the same seed gives the same speech. Fresh for every request by default.
        max_audio_ms: longest audio in ms, 80 to 160000.
        chunk_frames: frames of 80 ms in a chunk, 1 to 25; 0, the default, lets the server choose.
        timeout_ms: longest time from the request's arrival to its last chunk, in ms; 0, the default, is none.

    The ranges are the server's to judge: the client only refuses what its tensor cannot hold.
    """

    text: str
    speaker: int | None = None
    voice: str | None = None
    context: Sequence[Segment] = ()
    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_audio_ms: int | None = None
    chunk_frames: int | None = None
    timeout_ms: int | None = None


def as_request(request: SpeechRequest | str, fields: dict[str, Any]) -> SpeechRequest:
    """A text or a request, with the named fields set.

    Raises:
        TypeError: a field that `SpeechRequest` does not have.
    """
    return SpeechRequest(request, **fields) if isinstance(request, str) else replace(request, **fields)


_SCALARS = {
    "TEXT": "BYTES",
    "SPEAKER": "INT32",
    "VOICE": "BYTES",
    "TEMPERATURE": "FP32",
    "TOP_K": "INT32",
    "SEED": "INT64",
    "MAX_AUDIO_MS": "INT32",
    "CHUNK_FRAMES": "INT32",
    "TIMEOUT_MS": "INT32",
}
_FORMATS = {"INT32": "i", "INT64": "q", "FP32": "f"}


def infer_request(request: SpeechRequest) -> Any:
    """The `ModelInferRequest` of a request, holding only the inputs that were given.

    Raises:
        InvalidArgument: a value does not fit its tensor (an int beyond int32, audio that is not 1-d, ...).
    """
    message = service_pb2.ModelInferRequest(model_name=MODEL_NAME)
    for name, datatype in _SCALARS.items():
        value = getattr(request, name.lower())
        if value is not None:
            _add_input(message, name, datatype, [value])
    if request.context:
        clips = [_clip(index, segment.audio) for index, segment in enumerate(request.context)]
        _add_input(message, "CONTEXT_TEXT", "BYTES", [segment.text for segment in request.context])
        _add_input(message, "CONTEXT_SPEAKER", "INT32", [segment.speaker for segment in request.context])
        _add_input(message, "CONTEXT_SAMPLES", "INT32", [len(clip) for clip in clips])
        audio = np.concatenate(clips)
        message.inputs.add(name="CONTEXT_AUDIO", datatype="FP32", shape=audio.shape)
        message.raw_input_contents.append(audio.tobytes())
    return message


def _add_input(message: Any, name: str, datatype: str, values: list[Any]) -> None:
    raw = _strings(name, values) if datatype == "BYTES" else _numbers(name, datatype, values)
    message.inputs.add(name=name, datatype=datatype, shape=[len(values)])
    message.raw_input_contents.append(raw)


def _strings(name: str, values: list[Any]) -> bytes:
    for value in values:
        if not isinstance(value, str):
            raise InvalidArgument(name, f"must be a string, got {type(value).__name__}")
    try:
        encoded = [value.encode() for value in values]
    except UnicodeEncodeError as error:  # a lone surrogate
        raise InvalidArgument(name, f"cannot be UTF-8: {error.reason} at code point {error.start}") from None
    return bytes(serialize_byte_tensor(np.array(encoded, dtype=np.object_)).item())


def _numbers(name: str, datatype: str, values: list[Any]) -> bytes:
    try:
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    except (struct.error, OverflowError, TypeError, ValueError):
        shown = ", ".join(repr(value) for value in values)
        raise InvalidArgument(name, f"must be {datatype}, got {shown}") from None


def _clip(index: int, audio: Any) -> npt.NDArray[np.float32]:
    clip = np.asarray(audio)
    # Integers are refused, not cast: they are PCM of another scale, and would be heard as noise.
    if clip.ndim != 1 or clip.dtype.kind != "f":
        raise InvalidArgument(
            "CONTEXT_AUDIO", f"segment {index} must be float32 [samples], got {clip.dtype} {list(clip.shape)}"
        )
    return clip.astype("<f4", copy=False)
