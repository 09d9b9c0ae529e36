"""Tensors in, tensors out: between Triton's requests and plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from misotts_client.errors import InvalidArgument, MisoError

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def array(request: Any, name: str) -> np.ndarray | None:
    """An input, or None where the request leaves it out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def scalar(request: Any, name: str) -> Any:
    """The one element of a numeric input [1], or None where it is left out."""
    value = array(request, name)
    return None if value is None else value.reshape(-1)[0].item()


def strings(request: Any, name: str) -> list[str] | None:
    """A STRING input's elements, or None where it is left out.

    Raises:
        InvalidArgument: an element is not UTF-8.
    """
    value = array(request, name)
    if value is None:
        return None
    try:
        return [element.decode("utf-8") for element in value.reshape(-1)]
    except UnicodeDecodeError as error:
        raise InvalidArgument(name, f"must be UTF-8, byte {error.start} is not") from None


def send(sender: Any, outputs: Mapping[str, Any], final: bool = False) -> None:
    """Send a response; a str is a STRING [1]."""
    tensors = [
        pb_utils.Tensor(name, np.array([value.encode()], np.object_) if isinstance(value, str) else value)
        for name, value in outputs.items()
    ]
    sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if final else 0)


def end(sender: Any) -> None:
    """Say that no more responses come."""
    sender.send(flags=FINAL)


def refuse(sender: Any, error: MisoError) -> None:
    """Answer with an ordinary error. Only before a stream's first chunk: a later one would leak the request."""
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))), flags=FINAL)
