"""Whole servers on other engines than the default."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from misotts.serve.local import RunningServer, running_server
from misotts.synthesizer import Synthesizer
from misotts_client import Client, SpeechRequest


def check_audio(url: str, synthesizer: Synthesizer, requests: list[SpeechRequest], at_once: int) -> None:
    """Check that the server's audio is what the library makes of each request; same audio means same frames."""
    with Client(url) as client, ThreadPoolExecutor(at_once) as pool:
        spoken = list(pool.map(client.speak, requests))
    for request, speech in zip(requests, spoken, strict=True):
        np.testing.assert_allclose(speech.audio, synthesizer.speak(request), rtol=0, atol=1e-5)


def test_the_eager_engine_gives_the_compiled_engines_audio(
    eager_server: RunningServer, synthesizer: Synthesizer
) -> None:
    """The library has the default engine, which is the compiled one."""
    requests = [
        SpeechRequest(
            "word " * (1 + 5 * n), seed=n, max_audio_ms=800 + 160 * n, temperature=n % 5 * 0.3, top_k=5 + 290 * n
        )
        for n in range(8)
    ]
    check_audio(eager_server.url, synthesizer, requests, at_once=8)


def test_the_graph_engine_gives_the_compiled_engines_audio(
    demo_folder: Path, key_options: list[str], synthesizer: Synthesizer
) -> None:
    """Its code runs uncaptured on the CPU. The last bits of its products depend on the number of rows and differ from
    the compiled engine's, so requests come one after the other, with seeds that meet no near tie of two codes."""
    requests = [
        SpeechRequest("word " * (1 + 9 * n), seed=10 + n, max_audio_ms=960, top_k=5 + 290 * n) for n in range(4)
    ]
    with running_server(demo_folder, "--backbone=graph", "--max-streams=4", *key_options) as server:
        check_audio(server.url, synthesizer, requests, at_once=1)
