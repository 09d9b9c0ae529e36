"""A connection without traffic: a living one is kept, a dead one is closed and its streams end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from misotts.serve.local import RunningServer
from misotts_client import Client
from misotts_client.request import SpeechRequest
from misotts_client.transport import CHANNEL_OPTIONS, infer_request
from tests.support.proxy import proxy

NOTICED_S = 15
"""A ping after 5 s without traffic, and 10 s for its answer."""


def test_the_server_accepts_frequent_pings(server: RunningServer) -> None:
    """The test sends four pings in a stream without messages. Triton's defaults would accept three."""
    options = [(name, 2_100 if name == "grpc.keepalive_time_ms" else value) for name, value in CHANNEL_OPTIONS]
    speak = threading.Event()

    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        speak.wait()
        yield infer_request(SpeechRequest("Still here.", max_audio_ms=160))

    with grpc.insecure_channel(server.url, options=options) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests(), timeout=30)
        time.sleep(9.2)
        speak.set()
        assert not [answer.error_message for answer in call if answer.error_message]


def test_a_caller_that_vanishes_frees_its_slot(server: RunningServer, busy_streams: Callable[[], int]) -> None:
    swallow = threading.Event()
    story = SpeechRequest("A long story.", max_audio_ms=160_000)
    with proxy(server.url, swallow) as url, Client(url) as client, client.stream(story) as stream:
        next(iter(stream))
        while not busy_streams():  # stages report twice a second
            time.sleep(0.1)
        swallow.set()
        began = time.monotonic()
        while busy_streams():
            assert time.monotonic() - began < NOTICED_S + 5
            time.sleep(0.2)
