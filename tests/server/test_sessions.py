"""Conversations on the real server, by gRPC."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from misotts.config import FRAME_MS
from misotts.prompt.coded_segment import CodedSegment
from misotts.synthesizer import Synthesizer
from misotts_client import Client, InvalidArgument


def name() -> str:
    return uuid.uuid4().hex


def test_a_conversation_sounds_like_the_library(client: Client, synthesizer: Synthesizer) -> None:
    """Three turns, of which the second was heard in part; then the conversation ends."""
    session = name()
    fields = {"voice": "ann", "max_audio_ms": 400}
    first = synthesizer.frames("Good morning.", seed=1, **fields)
    said = [CodedSegment("Good morning.", 0, first)]
    second = synthesizer.frames("How are you?", seed=2, context=said, **fields)
    said.append(CodedSegment("How are you?", 0, second[:2]))
    third = synthesizer.speak("I am well.", seed=3, context=said, **fields)
    heard = [
        client.speak(text, seed=seed, session=session, session_heard_ms=heard_ms, **fields)
        for seed, (text, heard_ms) in enumerate(
            [("Good morning.", None), ("How are you?", None), ("I am well.", 2 * FRAME_MS + 40)], 1
        )
    ]
    assert [speech.session_turns for speech in heard] == [0, 1, 2]
    assert np.abs(heard[2].audio - third).max() < 2e-5
    ended = client.speak("", session=session, session_end=1)
    assert (len(ended.audio), ended.finish) == (0, "eos")
    assert client.speak("Hello.", session=session, max_audio_ms=80).session_turns == 0


def test_of_two_turns_that_overlap_the_second_is_refused(client: Client) -> None:
    session = name()
    with client.stream("A long story.", session=session, max_audio_ms=20_000) as story:
        next(story)
        with pytest.raises(InvalidArgument) as caught:
            client.speak("Another one.", session=session)
        assert caught.value.field == "SESSION"
        assert len(next(story).audio)


def test_a_turn_right_after_a_cancel_is_never_refused(client: Client) -> None:
    """The barge-in of docs/conversations.md, again and again."""
    session, turns = name(), []
    for _ in range(12):
        with client.stream("A long story.", session=session, max_audio_ms=10_000, session_heard_ms=80) as story:
            for chunk in story:
                turns.append(chunk.session_turns)
                break
    assert turns == list(range(12))
