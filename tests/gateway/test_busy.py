"""A busy gateway answers its probes: encoding, checking of voices and splitting of texts do not hold up its loop."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_triton import running
from tests.support.gateway import running_gateway
from tests.support.http import request, speak
from tests.support.tone import speak_tone
from tests.support.uploads import clip, upload

pytestmark = pytest.mark.server  # the uploads start processes that decode the clips

SECONDS = 5.0
LONG = "This is one sentence of a text that is divided. " * 417
"""20,000 characters."""


def test_probes_are_answered_while_the_gateway_works(tmp_path: Path) -> None:
    voices = tmp_path / "voices"
    voices.mkdir()
    sample = ("a.flac", "audio/flac", clip(30, 48_000, form="FLAC"))
    with (
        running(f"{tmp_path}/grpc:1") as triton,
        running_gateway(triton.url, f"--voices={voices}", "--allow-voice-uploads") as gateway,
        ThreadPoolExecutor(32) as callers,
    ):
        triton.script = speak_tone(pace_s=0.08)
        text = "x" * int(SECONDS / 0.06)
        playing = [callers.submit(speak, gateway.http_port, text, response_format=name) for name in ["mp3", "opus"] * 8]
        uploads = [
            callers.submit(upload, gateway.http_port, {}, name=f"v{number}", audio_sample=sample) for number in range(4)
        ]
        long = callers.submit(speak, gateway.http_port, LONG, max_audio_ms=800, response_format="mp3")
        took = []
        while not all(each.done() for each in playing):
            began = time.perf_counter()
            assert request(gateway.ready_port, "GET", "/live").status == 200
            took.append(time.perf_counter() - began)
            time.sleep(max(0.1 - took[-1], 0))
        assert len(took) > 20
        assert np.quantile(took, 0.99, method="lower") < 0.25
        assert {each.result(60).status for each in uploads} == {200}
        assert long.result(60).status == 200
        assert {each.result().status for each in playing} == {200}
