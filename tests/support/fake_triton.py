"""A gRPC server in this process that implements Triton's protocol and follows a script."""

import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

Script = Callable[[Any, grpc.ServicerContext], Iterator[Any]]


def answer(
    samples: int = 1920, frame: int = 0, seed: int = 7, finish: str = "", level: float = 0.5, audio: Any = None
) -> Any:
    """Return the response with one chunk: `audio`, else constant audio."""
    if audio is None:
        audio = np.full(samples, level, np.float32)
    outputs = {
        "SEED_USED": ("INT64", struct.pack("<q", seed)),  # not in the contract's order, on which nothing may rely
        "AUDIO": ("FP32", audio.tobytes()),
        "FINISH": ("BYTES", serialize_byte_tensor(np.array([finish.encode()], np.object_)).item()),
        "FRAME": ("INT32", struct.pack("<i", frame)),
        "SESSION_TURNS": ("INT32", struct.pack("<i", 0)),
    }
    response = service_pb2.ModelStreamInferResponse()
    for name, (datatype, raw) in outputs.items():
        shape = [len(audio) if name == "AUDIO" else 1]
        response.infer_response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.infer_response.raw_output_contents.append(raw)
    return response


def utterance(frames: int, **chunk: Any) -> Iterator[Any]:
    """Yield a whole utterance, one frame per chunk."""
    for frame in range(frames):
        yield answer(frame=frame, finish="eos" if frame == frames - 1 else "", **chunk)


def refusal(text: str) -> Any:
    return service_pb2.ModelStreamInferResponse(error_message=text)


def last_flag() -> Any:
    """Return the empty response with which Triton may end a stream."""
    response = service_pb2.ModelStreamInferResponse()
    response.infer_response.parameters["triton_final_response"].bool_param = True
    return response


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers each request by its script.

    Attributes:
        script: yields the responses to a request; may be replaced at any time.
        ready: the answer to ServerReady.
        url: host and port.
        requests: all requests so far, but for those that end a conversation.
        forgotten: the conversations that were ended.
        cancelled: set when a client cancels a call that is not yet done.
        metadata: names of all headers so far.
        drained: set when a call has ended by itself: the client closed its side and the script is exhausted.
    """

    def __init__(self) -> None:
        self.script: Script
        self.url = ""
        self.reset()

    def reset(self) -> None:
        """Forget what has come, and answer as in the beginning."""
        self.script = lambda request, context: utterance(3)
        self.ready = False
        self.requests: list[Any] = []
        self.forgotten: list[str] = []
        self.metadata: list[str] = []
        self.cancelled = threading.Event()
        self.drained = threading.Event()

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def ModelStreamInfer(  # noqa: N802 (the protocol's name)
        self, request_iterator: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        done = threading.Event()
        context.add_callback(lambda: None if done.is_set() else self.cancelled.set())
        self.metadata += [key for key, _ in context.invocation_metadata()]
        for request in request_iterator:  # ends when the client closes its side, like Triton's loop
            if name := _forgotten(request):
                self.forgotten.append(name)
                yield answer(samples=0, finish="eos")
            else:
                self.requests.append(request)
                yield from self.script(request, context)
        done.set()
        self.drained.set()


def _forgotten(request: Any) -> str:
    """Return the conversation that a request ends; empty if it asks for speech."""
    names = [tensor.name for tensor in request.inputs]
    raw = dict(zip(names, request.raw_input_contents, strict=False))
    return raw["SESSION"][4:].decode() if "SESSION_END" in raw and not raw["TEXT"].strip(b"\0") else ""


def endless(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    """Send a chunk every 5 ms until the client leaves."""
    pace = threading.Event()
    context.add_callback(pace.set)
    frame = 0
    while not pace.wait(0.005):
        yield answer(frame=frame)
        frame += 1


def silent(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    """Send nothing until the client leaves."""
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(10)
    return iter(())


@contextmanager
def running(path: str = "") -> Iterator[FakeTriton]:
    """Run one on a free port, or on a unix socket at `path`."""
    fake = FakeTriton()
    server = grpc.server(ThreadPoolExecutor(64))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_insecure_port(f"unix:{path}" if path else "127.0.0.1:0")
    fake.url = f"unix:{path}" if path else f"127.0.0.1:{port}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait()
