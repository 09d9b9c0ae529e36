"""Conversations over WebSockets and HTTP: one session, one utterance at a time, what was heard."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from misotts_client.errors import MisoError
from misotts_client.request import SpeechRequest
from misotts_gateway.callers import Caller
from misotts_gateway.sockets.conversation import Closing, Conversation, Playback, Speaker
from misotts_gateway.turn import Sound
from tests.support.fake_triton import FakeTriton, endless, silent
from tests.support.gateway import RunningGateway
from tests.support.http import request, speak
from tests.support.http_app import AtOnce, OneChunk, service_before
from tests.support.tone import inputs, speak_tone
from tests.support.waiting import wait_until
from tests.support.ws import CARTESIA, done, talking, turn


@pytest.fixture
def port(gateway: RunningGateway, triton: FakeTriton) -> int:
    triton.script = speak_tone()
    return gateway.http_port


def sessions(triton: FakeTriton) -> list[str | None]:
    return [inputs(each).get("SESSION") for each in triton.requests]


def test_a_socket_is_one_conversation(port: int, triton: FakeTriton) -> None:
    for _ in range(2):
        with talking(port, CARTESIA) as talker:
            talker.send(turn("Hello there. How are you?"), turn("Yes.", "b"))
            talker.until(done("b"))
    names = sessions(triton)
    assert names[:3] == [names[0]] * 3
    assert names[3:] == [names[3]] * 3
    assert len(set(names)) == 2
    assert None not in names
    wait_until(lambda: triton.forgotten == [names[0], names[3]])
    assert not any("SESSION_HEARD_MS" in inputs(each) for each in triton.requests)


def test_a_conversation_can_have_a_name(port: int, triton: FakeTriton) -> None:
    for path, headers in ((CARTESIA + "?x-misotts-session=mine", {}), (CARTESIA, {"x-misotts-session": "mine"})):
        with talking(port, path, headers) as talker:
            talker.send(turn("Yes."))
            talker.until(done())
    speak(port, "Yes.", session="mine")
    request(port, "POST", "/v1/speak?x-misotts-session=mine", {"text": "Yes."})
    assert sessions(triton) == ["127.0.0.1/mine"] * 4
    assert not triton.forgotten
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}{CARTESIA}?x-misotts-session=a/b")
    assert refused.value.response.status_code == 400
    assert request(port, "POST", "/v1/speak?x-misotts-session=a/b", {"text": "Yes."}).status == 400


def test_a_long_text_over_http_is_one_conversation(port: int, triton: FakeTriton) -> None:
    text = " ".join(["This is a sentence of some length, and it ends."] * 20)
    speak(port, "Short.")
    speak(port, text, response_format="pcm")
    first, *rest = sessions(triton)
    assert first is None
    assert len(rest) > 2
    assert len(set(rest)) == 1
    wait_until(lambda: triton.forgotten == rest[:1])


def test_turns_that_overlap_are_queued(port: int, triton: FakeTriton) -> None:
    running, most, lock = [0], [0], threading.Lock()
    tone = speak_tone(pace_s=0.005)

    def script(request: Any, context: Any) -> Iterator[Any]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        yield from tone(request, context)
        with lock:
            running[0] -= 1

    triton.script = script
    with talking(port, CARTESIA) as talker:
        for id in "abcdef":
            talker.send(turn(f"This is context {id}.", id))
        talker.until(done("f"))
        order = [each["context_id"] for each in talker.got if each["done"]]
    assert order == list("abcdef")
    assert most == [1]


def test_what_was_heard_is_told_to_the_next_turn(port: int, triton: FakeTriton) -> None:
    triton.script = endless
    with talking(port, CARTESIA) as talker:
        talker.send(turn("A long sentence."))
        talker.next()
        began = time.monotonic()
        talker.until(lambda each: time.monotonic() - began > 0.3)
        talker.send({"context_id": "a", "cancel": True})
        talker.until(done())
        elapsed_ms = (time.monotonic() - began) * 1000
        triton.script = silent
        talker.send(turn("It was refused.", "b"))
        wait_until(lambda: len(triton.requests) == 2)
        talker.send({"context_id": "b", "cancel": True})  # nothing was said, so what was heard before still counts
        triton.script = speak_tone()
        talker.send(turn("Then this.", "c"), turn("And this.", "d"))
        talker.until(done("d"))
    first, told, again, last = (inputs(each).get("SESSION_HEARD_MS") for each in triton.requests)
    assert first is last is None
    assert told is not None
    assert told == again
    assert 250 < told < elapsed_ms + 100


def test_a_turn_can_be_interrupted_while_its_last_audio_is_played(port: int, triton: FakeTriton) -> None:
    with talking(port, CARTESIA) as talker:
        talker.send(turn("A sentence that takes some seconds to play."))
        talker.until(done())
        time.sleep(0.2)
        talker.send({"context_id": "a", "cancel": True}, turn("Then this.", "b"))
        talker.until(done("b"))
    heard_ms = inputs(triton.requests[1])["SESSION_HEARD_MS"]
    assert 200 <= heard_ms < 1_500


def test_elevenlabs_closes_a_context_again_while_its_last_audio_is_played(port: int, triton: FakeTriton) -> None:
    def says(text: str, context: str) -> list[dict[str, Any]]:
        close = {"context_id": context, "close_context": True}
        return [{"context_id": context, "text": text}, {"context_id": context, "flush": True}, close]

    with talking(port, "/v1/text-to-speech/alloy/multi-stream-input?output_format=pcm_24000") as talker:
        talker.send(*says("A sentence that takes some seconds to play.", "a"))
        talker.until(lambda each: each["isFinal"])
        time.sleep(0.2)
        talker.send({"context_id": "a", "close_context": True}, *says("Then this.", "b"))
        talker.until(lambda each: each["isFinal"])
    assert {each["contextId"] for each in talker.got if each["isFinal"]} == {"a", "b"}
    assert 200 <= inputs(triton.requests[1])["SESSION_HEARD_MS"] < 1_500


def test_playback() -> None:
    now = [0.0]
    playback = Playback(lambda: now[0])
    assert playback.interrupt() is None
    playback.begin()
    playback.sent(2.0)
    now[0] = 0.5
    playback.begin()  # the second utterance waits for the end of the first one
    playback.sent(1.0)
    now[0] = 1.0
    assert playback.interrupt() == 0
    playback.begin()  # after an interruption the next one is played at once
    playback.sent(2.0)
    now[0] = 1.4
    playback.sent(0.5)
    now[0] = 2.5
    assert playback.interrupt() == 1500
    playback.begin()
    playback.sent(1.0)
    now[0] = 4.0
    assert playback.interrupt() is None  # all of it was heard


def test_a_caller_that_takes_nothing_is_closed(tmp_path: Path) -> None:
    """`Core.end_stalled` cancels the task that waits for the caller."""

    class Stuck(Speaker):
        task: Any = None

        def begin(self, text: str, rate_s: float) -> None:
            pass

        async def sound(self, sound: Sound) -> None:
            self.task = asyncio.current_task()
            await asyncio.Event().wait()

        async def end(self) -> None:
            raise AssertionError("it has not ended")

        async def failed(self, error: MisoError) -> None:
            raise AssertionError(str(error))

    async def run() -> None:
        service = service_before(OneChunk(), tmp_path, AtOnce(), max_input=2_000)
        conversation = Conversation(service, Caller("127.0.0.1", "id"))
        stuck = Stuck(SpeechRequest(""))
        conversation.say(stuck, "Hello.")
        running = asyncio.create_task(conversation.run())
        while stuck.task is None:
            await asyncio.sleep(0)
        stuck.task.cancel()
        with pytest.raises(Closing) as closing:
            await asyncio.wait_for(running, 5)
        assert closing.value.code == 1008
        assert service.busy == 0

    asyncio.run(run())
