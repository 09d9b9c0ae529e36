"""Deepgram's `/v1/speak` before a stand-in for Triton that speaks a tone."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from misotts_client.contract import SAMPLE_RATE
from tests.support.fake_triton import FakeTriton, endless, refusal
from tests.support.gateway import RunningGateway
from tests.support.http import request
from tests.support.tone import pcm, samples_of, speak_tone, spoken
from tests.support.waiting import wait_until
from tests.support.ws import NUMBERS, Talker, talking

PATH = "/v1/speak?model=alloy&encoding=linear16&sample_rate=24000"
FLUSH, CLEAR, CLOSE = ({"type": name} for name in ("Flush", "Clear", "Close"))


@pytest.fixture
def port(gateway: RunningGateway, triton: FakeTriton) -> int:
    triton.script = speak_tone()
    return gateway.http_port


@pytest.fixture
def talker(port: int) -> Iterator[Talker]:
    with talking(port, PATH) as talker:
        assert talker.next()["type"] == "Metadata"
        yield talker


def say(text: Any) -> dict[str, Any]:
    return {"type": "Speak", "text": text}


def is_type(name: str) -> Any:
    return lambda each: isinstance(each, dict) and each["type"] == name


def audio(messages: list[Any]) -> bytes:
    return b"".join(each for each in messages if isinstance(each, bytes))


def test_words_become_sentences(talker: Talker, triton: FakeTriton) -> None:
    """The case text-abbreviations: the first sentence starts as soon as the second has begun."""
    for word in NUMBERS:
        if word == "Was ":
            assert not triton.requests
        talker.send(say(word))
        if word == "Was ":
            wait_until(lambda: len(triton.requests) == 1)
    talker.send(FLUSH)
    *messages, end = talker.until(is_type("Flushed"))
    assert end == {"type": "Flushed", "sequence_id": 0}
    assert [each.strip()[-10:] for each in spoken(triton)] == [" Tolkien).", "t 22,1 °C?", "Yes."]
    assert "".join(spoken(triton)) == "".join(NUMBERS)
    assert audio(messages) == b"".join(pcm(samples_of(each)) for each in spoken(triton))


def test_nothing_to_say(talker: Talker, triton: FakeTriton) -> None:
    """The case text-nothing: an answer for each Flush, and nothing upstream."""
    for text in ("", " ", "...", "🙂", "\u200b"):
        talker.send(say(text), FLUSH)
    talker.send(*[FLUSH] * 25)
    got = [talker.next(0.5) for _ in range(30)]
    assert got == [{"type": "Flushed", "sequence_id": number} for number in range(30)]
    assert not triton.requests
    talker.send(say("Hello."), FLUSH)
    assert audio(talker.until(is_type("Flushed"))) == pcm(samples_of("Hello."))


def test_clear_stops_within_a_frame(talker: Talker, triton: FakeTriton) -> None:
    triton.script = endless
    talker.send(say("A long sentence. Another one."), FLUSH)
    talker.next()
    began = time.monotonic()
    talker.send(CLEAR)
    assert triton.cancelled.wait(1)
    assert time.monotonic() - began < 0.08
    got = talker.until(is_type("Cleared"))
    assert not [each for each in got if is_type("Flushed")(each)]
    assert talker.quiet(0.1)
    triton.script = speak_tone()
    talker.send(say("Hello."), FLUSH)
    assert audio(talker.until(is_type("Flushed"))) == pcm(samples_of("Hello."))
    assert spoken(triton) == ["A long sentence. ", "Hello."]


def test_close_ends_at_once_after_flushed(port: int, talker: Talker, triton: FakeTriton) -> None:
    talker.send(FLUSH, CLOSE)
    assert talker.closed(0.5) == (1000, "")
    assert is_type("Flushed")(talker.got[-1])
    triton.script = endless
    with talking(port, PATH) as speaking:
        speaking.send(say("A long sentence."), FLUSH)
        speaking.until(lambda each: isinstance(each, bytes))
        speaking.send(CLOSE)
        assert speaking.closed(0.5) == (1000, "")
        assert is_type("Flushed")(speaking.got[-1])
    assert triton.cancelled.wait(1)


def test_a_wrong_message_is_one_error(talker: Talker, triton: FakeTriton) -> None:
    """The case ws-frames."""
    triton.script = speak_tone(pace_s=0.03)
    talker.send({**say("This turn goes on."), "zz": 1}, FLUSH)
    talker.next()
    wrong = [b"\xff\xfe", "", "[]", '"x"', "nul", {}, {"type": "Reset"}, {"type": []}, say(5), {"type": "Speak"}]
    for message in wrong:
        talker.send(message)
        error = talker.until(is_type("Error"))[-1]
        assert error["description"]
        assert error["code"] == "INVALID_VALUE"
    talker.send(json.dumps(say(" Last.")).encode(), FLUSH)  # JSON in a binary frame
    talker.until(lambda each: is_type("Flushed")(each) and each["sequence_id"] == 1)
    assert audio(talker.got) == b"".join(pcm(samples_of(each)) for each in spoken(triton))
    assert "".join(spoken(triton)) == "This turn goes on. Last."


def test_a_failure_closes(talker: Talker, triton: FakeTriton) -> None:
    triton.script = lambda request, context: iter([refusal("UNAVAILABLE: the server is full; try again in 3 s")])
    talker.send(say("Hello."), FLUSH)
    code, reason = talker.closed()
    assert (code, talker.got[-1]["code"]) == (1013, "UNAVAILABLE")
    assert "full" in reason


def test_raw_samples(port: int, triton: FakeTriton) -> None:
    """The case raw-samples: G.711 without a header, over both ways."""
    for encoding in ("mulaw", "alaw"):
        address = f"/v1/speak?model=alloy&encoding={encoding}&sample_rate=8000"
        with talking(port, address) as talker:
            talker.send(say("Hello there."), FLUSH)
            raw = audio(talker.until(is_type("Flushed")))
        given = request(port, "POST", address + "&container=none", {"text": "Hello there."})
        assert given.status == 200
        assert given.body == raw
        assert len(raw) == samples_of("Hello there.") * 8_000 // SAMPLE_RATE


def test_http_formats_and_refusals(port: int, triton: FakeTriton) -> None:
    starts = {"": b"\xff\xf3", "?encoding=linear16": b"RIFF", "?encoding=opus": b"OggS", "?encoding=flac": b"fLaC"}
    for query, start in starts.items():
        assert request(port, "POST", "/v1/speak" + query, {"text": "Hello."}).body.startswith(start)
    triton.reset()
    for query, body in (
        ("?encoding=ogg", {"text": "Hello."}),
        ("?encoding=mulaw&container=wav", {"text": "Hello."}),
        ("?sample_rate=11025", {"text": "Hello."}),
        ("?speed=1.5", {"text": "Hello."}),
        ("?model=../x", {"text": "Hello."}),
        ("", {"text": " "}),
        ("", {}),
    ):
        given = request(port, "POST", "/v1/speak" + query, body)
        assert given.status == 400
        assert set(given.json) == {"err_code", "err_msg"}
    assert not triton.requests
