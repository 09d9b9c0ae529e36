"""Conversations on the real server, by gRPC."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.soak import growth
from benchmarks.usage import usage
from misotts.config import FRAME_MS
from misotts.prompt.coded_segment import CodedSegment
from misotts.serve.local import RunningServer
from misotts.synthesizer import Synthesizer
from misotts_client import Client, InvalidArgument
from tests.support.processes import run_folder
from tests.support.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "conversations.md"


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
    assert interrupt(client, 12, np.zeros(12)) == list(range(12))


@pytest.mark.parametrize("kind", ["client", "gateway"])
def test_the_barge_in_of_the_docs(kind: str, server: RunningServer) -> None:
    """The user speaks once, after the first audio of the first answer."""
    (code,) = re.findall(rf"```python {kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    code = code.replace("localhost:8001", server.url).replace("localhost:8080", f"127.0.0.1:{server.ports.http}")
    played: list[Any] = []
    turns = server.metrics()["misotts_generate_conversation_turns_total"]
    exec(code, {"play": played.append, "user_speaks": lambda: len(played) == 1, "played_ms": lambda: 80})
    assert len(played) > 2
    wait_until(lambda: server.metrics()["misotts_generate_conversation_turns_total"] >= turns + 2)


def test_what_was_said_is_in_no_file_of_the_server(server: RunningServer, client: Client) -> None:
    client.speak("Xylophone marmalade.", session=name(), max_audio_ms=160)
    with pytest.raises(InvalidArgument):
        client.speak("Xylophone marmalade.", session="Xylophone marmalade.")
    files = [file for file in run_folder(server).rglob("*") if file.is_file() and not file.is_symlink()]
    assert files
    assert not [file for file in files if b"ylophone" in file.read_bytes()]


def held(server: RunningServer) -> list[float]:
    metrics = server.metrics()
    return [metrics[f"misotts_generate_{each}"] for each in ("conversations", "conversation_bytes", "streams")]


def interrupt(client: Client, times: int, pauses_s: np.ndarray) -> list[int | None]:
    """Cancel turns of one conversation with their first audio; return SESSION_TURNS of each."""
    session, turns = name(), list[int | None]()
    for pause_s in pauses_s[:times]:
        with client.stream("A long story.", session=session, max_audio_ms=10_000, session_heard_ms=80) as story:
            turns.append(next(story).session_turns)
        time.sleep(pause_s)
    return turns


@pytest.mark.slow
def test_two_hundred_cancels_with_a_turn_at_once(client: Client) -> None:
    turns = interrupt(client, 200, np.random.default_rng(0).uniform(0, 0.05, 200))
    rises = [after - before for before, after in itertools.pairwise(turns) if before is not None and after is not None]
    assert turns[:10] == list(range(10))
    assert all(rise == 1 or rise < -3 for rise in rises), "a full window loses many turns at once, and no other is lost"


@pytest.mark.slow
def test_two_hundred_conversations_leave_nothing_behind(server: RunningServer, client: Client) -> None:
    time.sleep(1.5)  # the stages report twice a second: what the tests before have left
    before, kept = usage(server), held(server)

    def talk(number: int) -> None:
        session = name()
        for turn in range(3):
            with client.stream(
                "A story.", session=session, max_audio_ms=800, seed=turn, session_heard_ms=80 if turn else None
            ) as story:
                for chunk in story:
                    assert chunk.session_turns == turn
                    if number % 3 == turn:
                        break
        client.speak("", session=session, session_end=1)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(talk, range(200)))
    wait_until(lambda: all(now <= then for now, then in zip(held(server), kept, strict=True)), 20)
    assert growth(before, usage(server)) == []
