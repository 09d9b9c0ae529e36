"""Prompts that need no encoding do not wait for prompts that do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from misotts.serve.local import RunningServer
from misotts_client import Client, Segment
from tests.support.clips import tone

MINUTE = tone(60).astype(np.float32)
LONG = [Segment("A long story.", 0, MINUTE), Segment("It goes on.", 1, MINUTE), Segment("To its end.", 0, MINUTE[::2])]
"""150 s, which leave room for a short utterance only."""


def first_audio(client: Client, context: list[Segment]) -> float:
    """Return the time at which the first chunk arrived."""
    with client.stream("Hello.", context=context, max_audio_ms=400) as stream:
        next(iter(stream))
        return time.monotonic()


def encoding(server: RunningServer) -> float:
    """Return the number of requests that wait for the codec, which is published every half second."""
    return server.metrics().get("misotts_prompt_encoding", 0)


def test_first_audio_arrives_while_a_long_context_is_encoded(client: Client, server: RunningServer) -> None:
    first_audio(client, [])
    with ThreadPoolExecutor(1) as pool, Client(server.url) as other:
        long = pool.submit(first_audio, other, LONG)
        while not encoding(server):
            assert not long.done(), "it was encoded before it was seen to be waiting"
        plain = first_audio(client, [])
        assert plain < long.result(), "the plain call waited for the long one"
