"""Sends requests that our client would not send."""

from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor


def infer(url: str, model: str, **inputs: np.ndarray) -> Any:
    """Send one request for `model`; return the first response of its stream. Object arrays hold bytes.

    The gateway refuses such a request, after which nothing follows, by the status of the call; it is returned as a
    response too.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, value in inputs.items():
        is_bytes = value.dtype == np.object_
        datatype = "BYTES" if is_bytes else np_to_triton_dtype(value.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=value.shape)
        raw = serialize_byte_tensor(value).item() if is_bytes and value.size else value.tobytes()
        request.raw_input_contents.append(raw)
    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            return next(iter(stub.ModelStreamInfer(iter([request]), timeout=20)))
        except grpc.RpcError as error:
            return service_pb2.ModelStreamInferResponse(error_message=error.details())


def text(value: bytes) -> np.ndarray:
    """Return a STRING [1]."""
    return np.array([value], np.object_)
