"""The ensemble answers as the contract says, and as the same pipeline does without a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES
from misotts.synthesizer import Synthesizer
from misotts_client import Client, Segment, SpeechRequest

TEXT = "Hello from Miso."


def test_the_chunks_of_a_stream_make_up_the_utterance(client: Client) -> None:
    chunks = list(client.stream(TEXT, seed=7, max_audio_ms=2_000))
    frame = 0
    for chunk in chunks:
        assert chunk.frame == frame
        assert chunk.seed == 7
        assert len(chunk.audio) % FRAME_SAMPLES == 0
        assert np.abs(chunk.audio).max(initial=0) <= 1
        frame += len(chunk.audio) // FRAME_SAMPLES
    assert frame == 25
    assert [chunk.finish for chunk in chunks] == [""] * (len(chunks) - 1) + ["length"]
    assert all(len(chunk.audio) for chunk in chunks[:-1]), "only the last chunk may be empty"
    assert len(chunks) > 2, "nothing was streamed"


@pytest.mark.parametrize("chunk_frames", [0, 1, 4, 25])
def test_the_server_speaks_like_the_library(client: Client, synthesizer: Synthesizer, chunk_frames: int) -> None:
    request = SpeechRequest(TEXT, speaker=3, seed=11, max_audio_ms=1_600)
    speech = client.speak(request, chunk_frames=chunk_frames)
    np.testing.assert_allclose(speech.audio, synthesizer.speak(request), rtol=0, atol=1e-5)


def test_eight_concurrent_streams_sound_like_each_alone(client: Client, synthesizer: Synthesizer) -> None:
    requests = [
        SpeechRequest("word " * (1 + 5 * n), seed=n, max_audio_ms=800 + 160 * n, temperature=0.3 * (n % 5), top_k=5 + n)
        for n in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        spoken = list(pool.map(client.speak, requests))
    for request, speech in zip(requests, spoken, strict=True):
        np.testing.assert_allclose(speech.audio, synthesizer.speak(request), rtol=0, atol=1e-5)


def test_more_callers_than_slots_are_queued(client: Client) -> None:
    with ThreadPoolExecutor(20) as pool:
        spoken = list(pool.map(lambda n: client.speak(TEXT, seed=n, max_audio_ms=400), range(20)))
    assert [len(speech.audio) for speech in spoken] == [5 * FRAME_SAMPLES] * 20


def test_voice_and_context_reach_the_model(client: Client, synthesizer: Synthesizer) -> None:
    clip = 0.1 * np.sin(np.arange(30_000) / 20, dtype=np.float32)
    context = [Segment("What did you say?", 1, clip), Segment("I said nothing.", 0, clip[:7_000])]
    request = SpeechRequest(TEXT, voice="ann", context=context, seed=5, max_audio_ms=640)
    speech = client.speak(request)
    np.testing.assert_allclose(speech.audio, synthesizer.speak(request), rtol=0, atol=1e-5)
    plain = client.speak(TEXT, seed=5, max_audio_ms=640)
    assert np.abs(speech.audio - plain.audio).max() > 1e-3


def test_the_default_seed_is_random_and_repeats_its_utterance(client: Client) -> None:
    first, second = (client.speak(TEXT, max_audio_ms=400) for _ in range(2))
    assert first.seed != second.seed
    assert not np.allclose(first.audio, second.audio, atol=1e-3)
    again = client.speak(TEXT, max_audio_ms=400, seed=first.seed)
    np.testing.assert_allclose(again.audio, first.audio, rtol=0, atol=1e-5)


def test_greedy_generation_ignores_the_seed(client: Client) -> None:
    first, second = (client.speak(TEXT, max_audio_ms=400, temperature=0.0) for _ in range(2))
    np.testing.assert_allclose(first.audio, second.audio, rtol=0, atol=1e-5)


def test_max_audio_ms_is_rounded_down_to_frames(client: Client) -> None:
    assert len(client.speak(TEXT, max_audio_ms=80).audio) == FRAME_SAMPLES
    assert len(client.speak(TEXT, max_audio_ms=399).audio) == 4 * FRAME_SAMPLES


def test_the_first_audio_arrives_before_the_utterance_is_complete(client: Client) -> None:
    speech = client.speak(TEXT, max_audio_ms=8_000)
    assert speech.ttfa_s is not None
    assert speech.ttfa_s < speech.total_s / 2


def test_a_caller_that_leaves_frees_its_slot(client: Client, busy_streams: Callable[[], int]) -> None:
    for _ in range(12):  # more than there are slots
        with client.stream(TEXT, max_audio_ms=60_000) as stream:
            next(iter(stream))
    limit = time.monotonic() + 10
    while busy_streams() and time.monotonic() < limit:
        time.sleep(0.1)
    assert busy_streams() == 0
    assert len(client.speak(TEXT, max_audio_ms=400).audio) == 5 * FRAME_SAMPLES
