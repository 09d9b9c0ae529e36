"""Callers whose prompts need no encoding do not wait for those whose do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from misotts.serve.local import RunningServer
from misotts_client import Client, Segment
from tests.support.clips import tone

MINUTE = tone(60).astype(np.float32)
LONG = [Segment("A long story.", 0, MINUTE), Segment("It goes on.", 1, MINUTE), Segment("To its end.", 0, MINUTE[::2])]
"""150 s, which just fit beside a short utterance."""


def first_sound(client: Client, context: list[Segment]) -> float:
    """When it was heard."""
    with client.stream("Hello.", context=context, max_audio_ms=400) as stream:
        next(iter(stream))
        return time.monotonic()


def encoding(server: RunningServer) -> float:
    """Requests that wait for the codec; published every half second."""
    return server.metrics().get("misotts_prompt_encoding", 0)


def test_a_first_sound_comes_while_a_long_context_is_encoded(client: Client, server: RunningServer) -> None:
    first_sound(client, [])
    with ThreadPoolExecutor(1) as pool, Client(server.url) as other:
        long = pool.submit(first_sound, other, LONG)
        while not encoding(server):
            assert not long.done(), "it was encoded before anyone could ask"
        plain = first_sound(client, [])
        assert plain < long.result(), "the plain call waited for the long one"
