"""No callback of the event loop uses more than 20 ms of its thread's CPU time."""

import asyncio
import json
import time
from asyncio import events
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from misotts_gateway.audio.formats import FORMATS
from misotts_gateway.http.app import http_app
from tests.support.http_app import OneChunk, call, converse, service_before
from tests.support.ws import CARTESIA, turn

LONGEST_S = 0.020
WORK: dict[str, tuple[str, bytes, bytes]] = {
    **{
        name: ("/v1/audio/speech", b"application/json", json.dumps({"input": "Hi.", "response_format": name}).encode())
        for name in FORMATS
    },
    "events": (
        "/v1/audio/speech",
        b"application/json",
        b'{"input":"Hi.","response_format":"wav","stream_format":"sse"}',
    ),
    "a long text": (
        "/v1/audio/speech",
        b"application/json",
        json.dumps(
            {"input": "This is a sentence. " * 1_000 + "お元気ですか。" * 2_000, "response_format": "mulaw"}
        ).encode(),
    ),
    "escapes": ("/v1/audio/speech", b"application/json", b'{"input":"' + b"\\ud83d\\ude42" * 90_000 + b'"}'),
    "many fields": ("/v1/audio/speech", b"application/json", b"{" + b'"a":[[]],' * 130_000 + b'"input":""}'),
    "an upload": (
        "/v1/audio/voices",
        b"multipart/form-data; boundary=b",
        b'--b\r\ncontent-disposition: form-data; name="audio_sample"; filename="a"\r\n\r\n'
        + b"\r\n-" * 3_000_000
        + b"\r\n--b--",
    ),
}


class CallbackWatch:
    """Measures the callbacks of the event loop.

    Attributes:
        longest_s: the most CPU time of its thread that one has taken.
    """

    longest_s = 0.0

    def begin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run_handle = events.Handle._run

        def timed(handle: Any) -> None:
            began = time.thread_time()
            run_handle(handle)
            self.longest_s = max(self.longest_s, time.thread_time() - began)

        monkeypatch.setattr(events.Handle, "_run", timed)


@pytest.mark.parametrize("name", WORK)
def test_the_loop_stays_free(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = CallbackWatch()

    async def run() -> None:
        with ThreadPoolExecutor(2) as threads:
            app = http_app(service_before(OneChunk(frames=25), tmp_path, threads, max_input=100_000))
            path, kind, raw = WORK[name]
            await call(app, "POST", "/v1/audio/speech", b"application/json", b'{"input":"a"}')  # what is loaded once
            watch.begin(monkeypatch)
            status, _ = await call(app, "POST", path, kind, raw)
            assert status in (200, 400), status

    asyncio.run(run())
    assert 0 < watch.longest_s < LONGEST_S


TEXT = "This is a sentence. " * 200 + "お元気ですか。" * 400
MESSAGES: dict[str, list[dict[str, Any]]] = {
    CARTESIA: [turn(TEXT, add_timestamps=True), turn("", "b", output_format=[[]] * 50_000)],
    "/v1/text-to-speech/alloy/multi-stream-input?output_format=opus_48000_64": [{"text": TEXT, "flush": True}],
    "/v1/speak": [{"type": "Speak", "text": "x" * 99_000}, {"type": "Flush"}],
}


@pytest.mark.parametrize("path", MESSAGES)
def test_the_loop_stays_free_of_messages(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = CallbackWatch()

    async def run() -> None:
        with ThreadPoolExecutor(2) as threads:
            app = http_app(service_before(OneChunk(frames=25), tmp_path, threads, max_input=100_000))
            short = {"text": "a", "type": "Speak", "flush": True}
            await converse(app, path, [json.dumps(turn("a") if path == CARTESIA else short)], pauses_s=0.2)
            watch.begin(monkeypatch)
            sent, _ = await converse(app, path, [json.dumps(each) for each in MESSAGES[path]], pauses_s=0.7)
            assert len(sent) > 10

    asyncio.run(run())
    assert 0 < watch.longest_s < LONGEST_S
