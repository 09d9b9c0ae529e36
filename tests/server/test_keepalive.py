"""Connections without a word: those that live are left alone, a dead one is given up with its streams."""

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
"""As README says: a ping after 5 s of silence, and 10 s for its answer."""


def test_pings_are_no_abuse(server: RunningServer) -> None:
    """Four in a stream without a message, more often than our client's: one too many under Triton's defaults."""
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


def test_who_vanished_without_a_word_frees_the_seat(server: RunningServer, busy_streams: Callable[[], int]) -> None:
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
