"""LiveKit's speech plugins: whole texts, text word by word, an interruption, the next turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.support.clients import Ran, assert_alike
from tests.support.decoded import resampled

TEXT = "Good morning, how are you today?"
LONG = "This is a long answer that is interrupted before it has come to its end, which is far away. It has more text."
STREAMING = ("cartesia", "elevenlabs", "elevenlabs mp3", "deepgram")


@pytest.fixture(scope="module")
def ran(run: Callable[..., Ran]) -> Ran:
    return run("livekit", "livekit_services.py", TEXT, LONG)


@pytest.mark.parametrize("plugin", ["openai", "openai mp3", "openai raw", *STREAMING])
def test_the_audio_is_that_of_grpc(
    ran: Ran, assert_heard: Callable[..., None], spoken: Callable[..., np.ndarray], plugin: str
) -> None:
    rate = ran.found[plugin]["rate"]
    told = {plugin: TEXT} | ({f"{plugin} streamed": f"{TEXT} "} if plugin in STREAMING else {})
    for name, text in told.items():  # word by word, the last one has a space behind it too
        if "mp3" in plugin:
            assert_alike(ran.pcm(name).astype(np.float32), resampled(spoken(text).astype(np.float32), rate))
        else:
            assert_heard(ran.pcm(name), text)


@pytest.mark.parametrize("plugin", STREAMING)
def test_a_turn_after_an_interruption_is_spoken(ran: Ran, assert_heard: Callable[..., None], plugin: str) -> None:
    if "mp3" in plugin:
        assert len(ran.pcm(f"{plugin} again")) > 0
    else:
        assert_heard(ran.pcm(f"{plugin} again"), f"{TEXT} ", later=True)


def test_cartesias_words_have_times(ran: Ran) -> None:
    words, starts = zip(*ran.found["cartesia"]["timed"], strict=True)
    assert "".join(words).split() == TEXT.split()
    assert list(starts) == sorted(starts)


def test_errors_have_a_status(ran: Ran) -> None:
    assert ran.found["unknown voice"]["error"][:2] == ["APIStatusError", 404]
    assert ran.found["wrong key"]["error"][:2] == ["APIStatusError", 401]


def test_a_refusal_is_retried(ran: Ran) -> None:
    assert ran.found["retry"]["failed"][0] == [429, True]
    assert ran.found["retry"]["bytes"] > 0
