"""A `SpeechRequest` as the inputs of the contract, and back: numpy arrays as Triton's Python backend has them.

A tensor of text is an object array of UTF-8 bytes.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from misotts_client.contract import INPUTS, SCALARS, check_context_size
from misotts_client.errors import InvalidArgument
from misotts_client.request import Segment, SpeechRequest

Array = npt.NDArray[Any]

_FORMATS = {"INT32": "<i", "INT64": "<q", "FP32": "<f"}


def write_request(request: SpeechRequest) -> dict[str, Array]:
    """Return the inputs that a request sets, by name. The limits of the values are left to the server.

    Raises:
        InvalidArgument: a value does not fit its tensor (an int beyond int32, audio that is not 1-d, ...).
    """
    values = {name: getattr(request, name.lower()) for name in SCALARS}
    tensors = {name: _tensor(name, [value]) for name, value in values.items() if value is not None}
    if request.context:
        clips = [_clip(index, segment.audio) for index, segment in enumerate(request.context)]
        tensors["CONTEXT_TEXT"] = _tensor("CONTEXT_TEXT", [segment.text for segment in request.context])
        tensors["CONTEXT_SPEAKER"] = _tensor("CONTEXT_SPEAKER", [segment.speaker for segment in request.context])
        tensors["CONTEXT_SAMPLES"] = _tensor("CONTEXT_SAMPLES", [len(clip) for clip in clips])
        tensors["CONTEXT_AUDIO"] = np.concatenate(clips)
    return tensors


def read_request(tensor: Callable[[str], Array | None], positions: int) -> SpeechRequest:
    """Return the request with the inputs that `tensor(name)` returns, which is None for an input that was left out.

    The size of the context is checked before anything is copied; `contract.check_request` checks the rest.

    Args:
        positions: context length of the model.

    Raises:
        InvalidArgument: there is no text, a text is not UTF-8, the context is too large, or its tensors do not fit
            each other.
    """
    given = {name: array for name in SCALARS if (array := tensor(name)) is not None}
    if "TEXT" not in given:
        raise InvalidArgument("TEXT", "is required, it was left out")
    fields = {name.lower(): _values(name, array)[0] for name, array in given.items()}
    return SpeechRequest(**fields, context=_read_context(tensor, positions))


def _read_context(tensor: Callable[[str], Array | None], positions: int) -> list[Segment]:
    given = {name: tensor(name) for name in INPUTS if name not in SCALARS}
    arrays = {name: array.reshape(-1) for name, array in given.items() if array is not None}
    sizes = {name: len(arrays.get(name, ())) for name in given}
    check_context_size(max(sizes["CONTEXT_TEXT"], sizes["CONTEXT_SAMPLES"]), sizes["CONTEXT_AUDIO"], positions)
    if not arrays:
        return []
    for name in given:
        if name not in arrays:
            raise InvalidArgument(name, "must come with the other context inputs, it was left out")
    count, samples, audio = sizes["CONTEXT_TEXT"], arrays["CONTEXT_SAMPLES"], arrays["CONTEXT_AUDIO"]
    for name in ("CONTEXT_SPEAKER", "CONTEXT_SAMPLES"):
        if sizes[name] != count:
            raise InvalidArgument(name, f"must have one element per text, {count}, got {sizes[name]}")
    if samples.min(initial=1) < 1:
        raise InvalidArgument("CONTEXT_SAMPLES", f"must be at least 1 for every segment, got {samples.min()}")
    total = int(samples.sum(dtype=np.int64))
    if total != len(audio):
        raise InvalidArgument("CONTEXT_AUDIO", f"must be the sum of CONTEXT_SAMPLES long, {total}, got {len(audio)}")
    if not count:
        return []
    clips = np.split(audio.copy(), np.cumsum(samples, dtype=np.int64)[:-1])  # Triton takes the tensor's memory back
    texts, speakers = (_values(name, arrays[name]) for name in ("CONTEXT_TEXT", "CONTEXT_SPEAKER"))
    return [Segment(*row) for row in zip(texts, speakers, clips, strict=True)]


def _tensor(name: str, values: Sequence[Any]) -> Array:
    datatype = INPUTS[name].datatype
    if datatype == "BYTES":
        return np.array([_utf8(name, value) for value in values], np.object_)
    format = _FORMATS[datatype]
    try:
        # struct refuses values that numpy would round or wrap.
        return np.frombuffer(struct.pack(f"<{len(values)}{format[1]}", *values), format)
    except (struct.error, OverflowError, TypeError, ValueError):
        shown = ", ".join(repr(value) for value in values)
        raise InvalidArgument(name, f"must be {datatype}, got {shown}") from None


def _utf8(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidArgument(name, f"must be a string, got {type(value).__name__}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise InvalidArgument(name, f"cannot be UTF-8: {error.reason} at code point {error.start}") from None


def _values(name: str, array: Array) -> list[Any]:
    if INPUTS[name].datatype != "BYTES":
        return list(array.reshape(-1).tolist())
    try:
        return [element.decode() for element in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise InvalidArgument(name, f"must be UTF-8, byte {error.start} is not") from None


def _clip(index: int, audio: Any) -> npt.NDArray[np.float32]:
    clip = np.asarray(audio)
    # Integers are refused, not cast: they are PCM of another scale, which would sound like noise.
    if clip.ndim != 1 or clip.dtype.kind != "f":
        raise InvalidArgument(
            "CONTEXT_AUDIO", f"segment {index} must be float32 [samples], got {clip.dtype} {list(clip.shape)}"
        )
    return clip.astype("<f4", copy=False)
