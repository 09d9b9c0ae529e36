"""Inputs of Triton's requests as arrays and texts, and responses from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from misotts_client.errors import MisoError

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def array(request: Any, name: str) -> npt.NDArray[Any] | None:
    """Return an input; None if the request leaves it out. The memory is Triton's until `execute` returns."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def text(request: Any, name: str) -> str | None:
    """Return the element of an input STRING [1]; None if the request leaves it out."""
    value = array(request, name)
    return None if value is None else value.item().decode()


def send(sender: Any, outputs: Mapping[str, Any], final: bool = False) -> None:
    """Send a response of arrays; a str becomes a STRING [1]."""
    tensors = [
        pb_utils.Tensor(name, np.array([value.encode()], np.object_) if isinstance(value, str) else value)
        for name, value in outputs.items()
    ]
    sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if final else 0)


def end(sender: Any) -> None:
    """Tell Triton that no more responses come."""
    sender.send(flags=FINAL)


def refuse(sender: Any, error: MisoError) -> None:
    """Answer with an ordinary error. Only before a stream's first chunk: a later one would leak the request."""
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))), flags=FINAL)
