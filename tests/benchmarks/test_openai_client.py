"""The load generator's client of OpenAI's HTTP, before the gateway and a stand-in for Triton."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load.caller import Answer, make
from benchmarks.load.openai import OpenAiClient, OpenAiServer
from benchmarks.load.plan import Call
from misotts_client import SpeechRequest
from misotts_client.contract import FRAME_SAMPLES, SAMPLE_RATE
from tests.support.fake_triton import FakeTriton, answer, running
from tests.support.gateway import running_gateway

SPOKEN = Call(0, 0.0, SpeechRequest("Hello there."), "listens", math.inf)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTriton]:
    with running(f"{tmp_path_factory.mktemp('run')}/grpc:1") as server:
        yield server


@pytest.fixture(scope="module")
def url(triton: FakeTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    voices: Path = tmp_path_factory.mktemp("voices")
    with running_gateway(triton.url, f"--voices={voices}") as gateway:
        yield f"http://127.0.0.1:{gateway.http_port}"


def call(server: OpenAiServer, spoken: Call = SPOKEN) -> Answer:
    async def run() -> Answer:
        began = time.perf_counter()
        async with OpenAiClient(server) as client:
            return await make(spoken, client, lambda: time.perf_counter() - began)

    return asyncio.run(run())


def test_a_call_hears_the_whole_utterance(triton: FakeTriton, url: str) -> None:
    audio = np.zeros(6 * FRAME_SAMPLES, np.float32)
    audio[1000:] = 0.25
    triton.script = lambda *_: iter([answer(audio=audio, finish="eos")])
    heard = call(OpenAiServer(url, body={"stream": True}))
    assert (heard.error, heard.finish, heard.audio_s) == ("", "eos", 6 * FRAME_SAMPLES / SAMPLE_RATE)
    assert heard.leading_silence_s == pytest.approx(1000 / SAMPLE_RATE)
    assert heard.ttfa_s is not None
    assert heard.audible_ttfa_s is not None
    assert heard.audible_ttfa_s >= heard.ttfa_s + 1000 / SAMPLE_RATE
    kept = np.concatenate(heard.audio)
    np.testing.assert_allclose(kept, audio, atol=1e-4)


@pytest.mark.parametrize(
    ("frames", "level", "fault"), [(6, 0.0, "SILENT"), (1, 0.25, "WRONG_LENGTH")], ids=["silent", "too short"]
)
def test_an_answer_that_is_no_speech_fails(triton: FakeTriton, url: str, frames: int, level: float, fault: str) -> None:
    triton.script = lambda *_: iter([answer(frames * FRAME_SAMPLES, level=level, finish="eos")])
    assert call(OpenAiServer(url)).error == fault


SAMPLES = np.full(24_000, 8_000, "<i2").tobytes()


@pytest.mark.parametrize(
    ("headers", "body", "fault"),
    [
        ({}, SAMPLES, ""),
        ({"content-type": "audio/pcm"}, SAMPLES, ""),
        ({"content-type": "audio/L16;rate=24000;channels=1"}, SAMPLES, ""),
        ({"content-type": "application/octet-stream", "x-sample-rate": "24000"}, SAMPLES, ""),
        ({"content-type": "audio/mpeg"}, SAMPLES, "NOT_PCM"),
        ({"content-type": "application/json"}, SAMPLES, "NOT_PCM"),
        ({"content-type": "audio/pcm;rate=48000"}, SAMPLES, "NOT_PCM"),
        ({"content-type": "audio/pcm", "x-sample-rate": "48000"}, SAMPLES, "NOT_PCM"),
        ({"content-type": "audio/pcm"}, b"RIFF" + SAMPLES, "NOT_PCM"),
        ({"content-type": "audio/pcm"}, b'{"error": "no"}' + SAMPLES, "NOT_PCM"),
        ({"content-type": "audio/pcm"}, SAMPLES + b"\0", "NOT_PCM"),
    ],
)
def test_an_answer_in_another_format_fails(headers: dict[str, str], body: bytes, fault: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        assert call(OpenAiServer(f"http://127.0.0.1:{server.server_port}")).error == fault


def test_a_refusal_and_a_server_that_is_not_there_fail(url: str) -> None:
    refused = call(OpenAiServer(url, model="", voice="of nobody else"))
    assert refused.error.startswith("HTTP_4")
    assert "error" in refused.words
    assert call(OpenAiServer("http://127.0.0.1:9")).error == "UNAVAILABLE"
