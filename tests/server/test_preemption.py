"""A server with a KV pool too small for all utterances at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from misotts.config import FRAME_SAMPLES
from misotts.serve.local import RunningServer
from misotts_client import Client, SpeechRequest

CALLERS = 8
FRAMES = 80
NUMBERS = " ".join(str(number) for number in range(100, 166))
PUBLISHED_S = 1.2


def test_preempted_utterances_end_as_they_would_alone(onnx_server: RunningServer) -> None:
    """The prompts of eight callers, 8 blocks each, nearly fill the pool of 64, and each stream grows by three."""
    requests = [
        SpeechRequest(f"{caller} {NUMBERS}", seed=caller, max_audio_ms=80 * FRAMES) for caller in range(CALLERS)
    ]
    time.sleep(PUBLISHED_S)
    before = onnx_server.metrics()["misotts_generate_preempted_total"]
    with Client(onnx_server.url) as client:
        with ThreadPoolExecutor(CALLERS) as callers:
            together = list(callers.map(client.speak, requests))
        time.sleep(PUBLISHED_S)
        assert onnx_server.metrics()["misotts_generate_preempted_total"] > before
        assert onnx_server.metrics()["misotts_generate_blocks_used"] == 0
        alone = client.speak(requests[-1])
    assert [(len(speech.audio), speech.finish) for speech in together] == [(FRAMES * FRAME_SAMPLES, "length")] * CALLERS
    np.testing.assert_allclose(together[-1].audio, alone.audio, rtol=0, atol=1e-5)
