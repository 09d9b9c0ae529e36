"""Pipecat's speech services: a turn, an interruption, the next turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.clients import Ran

TEXT = "Good morning, how are you today?"
LONG = "This is a long answer that is interrupted before it has come to its end, which is far away."
SERVICES = ("openai", "cartesia", "cartesia http", "elevenlabs", "deepgram")


@pytest.fixture(scope="module")
def ran(run: Callable[..., Ran]) -> Ran:
    return run("pipecat", "pipecat_services.py", TEXT, LONG)


@pytest.mark.parametrize("service", SERVICES)
def test_turns_with_an_interruption_and_a_lost_connection(
    ran: Ran, assert_heard: Callable[..., None], service: str
) -> None:
    found = ran.found[service]
    assert found["errors"] == []
    assert found["words"] == TEXT.split()
    # Deepgram's service puts a space behind each sentence, and the model hears it.
    text = f"{TEXT} " if service == "deepgram" else TEXT
    assert_heard(ran.pcm(service), text)
    assert found["interrupted"] > 0
    assert_heard(ran.pcm(f"{service} again"), text, later=True)
    assert_heard(ran.pcm(f"{service} reconnected"), text)  # a new socket is a new conversation


def test_errors_reach_the_pipeline(ran: Ran) -> None:
    assert "voice_not_found" in ran.found["unknown voice"]["errors"][0]
    assert "401" in ran.found["wrong key"]["errors"][0]
