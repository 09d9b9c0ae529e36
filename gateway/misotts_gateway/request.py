"""A request's bytes (Triton's `ModelInferRequest`) become a checked `SpeechRequest`.

All sizes are checked before anything is copied. What the contract does not have is refused by name: other models,
inputs, outputs and parameters, and tensors that are not raw bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from misotts_client.contract import INPUTS, MAX_TEXT, MODEL_NAME, OUTPUTS, check_request
from misotts_client.errors import InvalidArgument, NotFound
from misotts_client.request import SpeechRequest
from misotts_client.tensors import read_request
from misotts_gateway.wire import MalformedError, Value, fields, varints

MAX_FIELDS = 64
"""Fields of a message: a request with every input and output has 42."""
MAX_ID = 128
"""Bytes of the caller's id of a request, which every response repeats."""
MAX_TEXT_BYTES = 2**20
"""Bytes of all texts of a request: half an hour of speech takes 30 KB."""
VERSIONS = ("", "1")
EMPTY_FINAL = "triton_enable_empty_final_response"
"""The one parameter that a request may have: the caller wants an empty response behind the last one."""

_SIZES = {"INT32": 4, "INT64": 8, "FP32": 4}
_TYPES = {"INT32": "<i4", "INT64": "<i8", "FP32": "<f4"}


@dataclass(frozen=True)
class ModelLimits:
    """What a checked request depends on beside the contract.

    Attributes:
        positions: context length of the model.
        audio_codes: number of codes that can be sampled.
    """

    positions: int = 2048
    audio_codes: int = 2**31 - 1


def model_limits(told: object) -> ModelLimits | None:
    """Return the limits that another process tells as a mapping; None if it tells none."""
    if not isinstance(told, Mapping):
        return None
    try:
        limits = ModelLimits(int(told["positions"]), int(told["audio_codes"]))
    except (KeyError, TypeError, ValueError):
        return None
    return limits if min(limits.positions, limits.audio_codes) > 0 else None


@dataclass(frozen=True)
class Asked:
    """What one message of a caller asks for.

    Attributes:
        request: the checked request.
        id: the caller's id of it, which every response repeats; may be empty.
        empty_final: True if the caller wants an empty response behind the last one.
    """

    request: SpeechRequest
    id: str = ""
    empty_final: bool = False


def read(data: bytes, limits: ModelLimits) -> Asked:
    """Return what a serialized `ModelInferRequest` asks for.

    Raises:
        InvalidArgument: it is malformed or outside the contract; the error names the field, the limit and what came.
        NotFound: it is for another model.
    """
    try:
        return _read(memoryview(data), limits)
    except MalformedError as error:
        raise InvalidArgument(None, f"the request is not a ModelInferRequest: {error}") from None


def request_id(data: bytes) -> str:
    """Return the caller's id of a request that was refused; empty if there is none that can be read."""
    try:
        return next((_text(value, MAX_ID) for number, value in fields(memoryview(data), MAX_FIELDS) if number == 3), "")
    except (MalformedError, InvalidArgument):
        return ""


@dataclass
class _Input:
    datatype: str
    shape: list[int]
    raw: memoryview


def _read(data: memoryview, limits: ModelLimits) -> Asked:
    name, version, id, empty_final = "", "", "", False
    inputs: list[memoryview] = []
    raw: list[memoryview] = []
    for number, value in fields(data, MAX_FIELDS):
        if number == 1:
            name = _text(value, 256)
        elif number == 2:
            version = _text(value, 32)
        elif number == 3:
            id = _text(value, MAX_ID)
        elif number == 4:
            empty_final = _parameter(_bytes(value))
        elif number == 5:
            inputs.append(_bytes(value))
        elif number == 6:
            _check_output(_bytes(value))
        elif number == 7:
            raw.append(_bytes(value))
        else:
            raise MalformedError(f"it has an unknown field {number}")
    if name != MODEL_NAME:
        raise NotFound(None, f"the model is {MODEL_NAME!r}, got {name[:80]!r}")
    if version not in VERSIONS:
        raise NotFound(None, f"the model's version is '1', got {version!r}")
    tensors = _inputs(inputs, raw)
    request = read_request(tensors.get, limits.positions)
    check_request(request, limits.audio_codes)
    return Asked(request, id, empty_final)


def _inputs(messages: list[memoryview], raw: list[memoryview]) -> dict[str, npt.NDArray[Any]]:
    tensors: dict[str, npt.NDArray[Any]] = {}
    if len(messages) != len(raw):
        raise InvalidArgument(
            None, f"raw_input_contents must have one element per input, {len(messages)}, got {len(raw)}"
        )
    for message, content in zip(messages, raw, strict=True):
        name, datatype, shape = _describe(message)
        if name not in INPUTS:
            raise InvalidArgument(None, f"the inputs are {', '.join(INPUTS)}, got {name[:80]!r}")
        if name in tensors:
            raise InvalidArgument(name, "was given twice")
        tensors[name] = _tensor(name, datatype, shape, content)
    return tensors


def _describe(message: memoryview) -> tuple[str, str, list[int]]:
    """Return name, type and shape of an input."""
    name, datatype = "", ""
    shape: list[int] = []
    for number, value in fields(message, MAX_FIELDS):
        if number == 1:
            name = _text(value, 256)
        elif number == 2:
            datatype = _text(value, 32)
        elif number == 3:
            shape += [value] if isinstance(value, int) else varints(value, MAX_FIELDS)
        elif number == 4:
            raise InvalidArgument(name or None, "must be sent in the request: it has parameters (shared memory?)")
        elif number == 5:
            raise InvalidArgument(name or None, "must be in raw_input_contents, got contents")
        else:
            raise MalformedError(f"an input has an unknown field {number}")
    return name, datatype, shape


def _tensor(name: str, datatype: str, shape: list[int], raw: memoryview) -> npt.NDArray[Any]:
    field = INPUTS[name]
    if datatype != field.datatype or len(shape) != 1 or (field.size == "1" and shape != [1]):
        raise InvalidArgument(name, f"must be {field.datatype} [{field.size}], got {datatype[:32]} {shape[:8]}")
    (count,) = shape
    if datatype == "BYTES":
        return _strings(name, count, raw)
    if len(raw) != count * _SIZES[datatype]:
        raise InvalidArgument(name, f"must be {count * _SIZES[datatype]} bytes for {datatype} {shape}, got {len(raw)}")
    return np.frombuffer(raw, _TYPES[datatype])


def _strings(name: str, count: int, raw: memoryview) -> npt.NDArray[Any]:
    """Return a tensor of texts: each is its length in bytes, uint32, and its bytes."""
    if len(raw) > MAX_TEXT_BYTES:
        raise InvalidArgument(name, f"must be at most {MAX_TEXT_BYTES} bytes in all, got {len(raw)}")
    if count * 4 > len(raw):
        raise InvalidArgument(name, f"must have {count} elements, its {len(raw)} bytes hold fewer")
    texts = np.empty(count, np.object_)
    position = 0
    for index in range(count):
        if len(raw) - position < 4:
            raise InvalidArgument(name, f"must have {count} elements, its {len(raw)} bytes end at element {index}")
        (size,) = struct.unpack_from("<I", raw, position)
        position += 4
        if size > len(raw) - position:
            raise InvalidArgument(name, f"says {size} bytes at element {index}, but {len(raw) - position} are left")
        if size > 4 * MAX_TEXT:
            raise InvalidArgument(name, f"must be at most {MAX_TEXT} code points, got {size} bytes")
        texts[index] = bytes(raw[position : position + size])
        position += size
    if position != len(raw):
        raise InvalidArgument(name, f"has {len(raw) - position} bytes behind its last element")
    return texts


def _parameter(entry: memoryview) -> bool:
    """Return the value of `EMPTY_FINAL`; every other parameter is refused."""
    key, flag = "", False
    for number, value in fields(entry, MAX_FIELDS):
        if number == 1:
            key = _text(value, 256)
        elif number == 2:
            flag = any(kind == 1 and content == 1 for kind, content in fields(_bytes(value), MAX_FIELDS))
    if key != EMPTY_FINAL:
        raise InvalidArgument(None, f"the only parameter is {EMPTY_FINAL}, got {key[:80]!r}")
    return flag


def _check_output(message: memoryview) -> None:
    name = ""
    for number, value in fields(message, MAX_FIELDS):
        if number == 1:
            name = _text(value, 256)
        elif number == 2:
            raise InvalidArgument(None, "outputs have no parameters (classification, shared memory)")
    if name not in OUTPUTS:
        raise InvalidArgument(None, f"the outputs are {', '.join(OUTPUTS)}, got {name[:80]!r}")


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise MalformedError("a field has the wrong type")
    return value


def _text(value: Value, most: int) -> str:
    raw = _bytes(value)
    if len(raw) > most:
        raise InvalidArgument(None, f"a name or id must be at most {most} bytes, got {len(raw)}")
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        raise MalformedError("a name or id is not UTF-8") from None
