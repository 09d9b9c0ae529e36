"""ElevenLabs' protocols before a stand-in for Triton that speaks a tone."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from misotts_client.contract import SAMPLE_RATE
from tests.support.fake_triton import FakeTriton, endless, refusal
from tests.support.gateway import RunningGateway
from tests.support.http import request
from tests.support.tone import pcm, samples_of, speak_tone, spoken
from tests.support.waiting import wait_until
from tests.support.ws import NUMBERS, Talker, joined, talking

SINGLE = "/v1/text-to-speech/alloy/stream-input?output_format=pcm_24000"
MULTI = "/v1/text-to-speech/alloy/multi-stream-input?output_format=pcm_24000"
OPENING = {"text": " ", "voice_settings": {"stability": 0.5}, "generation_config": {"chunk_length_schedule": [120]}}


@pytest.fixture
def port(gateway: RunningGateway, triton: FakeTriton) -> int:
    triton.script = speak_tone()
    return gateway.http_port


@pytest.fixture
def multi(port: int) -> Iterator[Talker]:
    with talking(port, MULTI) as talker:
        yield talker


def final(context: str | None = None) -> Any:
    return lambda each: each.get("isFinal") and each.get("contextId") == context


def check_alignment(messages: list[Any], text: str) -> None:
    """Check that each message's times span its audio, and that the characters are the text."""
    for each in messages:
        if aligned := each["alignment"]:
            assert aligned == each["normalizedAlignment"]
            starts, durations = aligned["charStartTimesMs"], aligned["charDurationsMs"]
            assert starts == sorted(starts)
            assert min(starts + durations) >= 0
            audio_ms = len(base64.b64decode(each["audio"] or "")) / 2 / SAMPLE_RATE * 1000
            assert starts[-1] + durations[-1] == pytest.approx(audio_ms, abs=1)
    chars = "".join("".join(each["alignment"]["chars"]) for each in messages if each["alignment"])
    assert chars.split() == text.split()


def test_words_on_stream_input(port: int, triton: FakeTriton) -> None:
    """The case text-abbreviations."""
    with talking(port, SINGLE) as talker:
        talker.send(OPENING)
        for word in NUMBERS:
            talker.send({"text": word, "try_trigger_generation": True})
            if word == "Was ":
                wait_until(lambda: len(triton.requests) == 1)
        talker.send({"text": ""})
        *messages, _ = talker.until(final())
        assert talker.closed() == (1000, "")
    assert [each.strip()[-10:] for each in spoken(triton)] == [" Tolkien).", "t 22,1 °C?", "Yes."]
    assert "".join(spoken(triton)) == "".join(NUMBERS)
    assert joined(messages, "audio") == b"".join(pcm(samples_of(each)) for each in spoken(triton))
    check_alignment(messages, "".join(NUMBERS))


def test_flush_auto_mode_and_numbers(port: int, triton: FakeTriton) -> None:
    with talking(port, SINGLE) as talker:
        talker.send(OPENING, *({"text": each} for each in ("3", ".", "14", " is", " pi", ".")))
        talker.send({"text": " No end", "flush": True})
        wait_until(lambda: spoken(triton) == ["3.14 is pi. ", "No end"])
    with talking(port, SINGLE + "&auto_mode=true") as talker:
        talker.send(OPENING, {"text": "One."}, {"text": "Two, no end"})
        wait_until(lambda: spoken(triton)[2:] == ["One.", "Two, no end"])


def test_nothing_to_say(port: int, multi: Talker, triton: FakeTriton) -> None:
    """The case text-nothing."""
    for nothing in ({"text": " "}, {"text": "..."}, {"text": "🙂"}, {"text": "\u200b"}):
        with talking(port, SINGLE) as talker:
            talker.send(OPENING, nothing, {"text": ""})
            assert len(talker.until(final(), 0.5)) == 1
            assert talker.closed(0.5) == (1000, "")
    multi.send(OPENING | {"context_id": "a"}, {"context_id": "a", "flush": True})
    multi.send({"context_id": "a", "close_context": True})
    assert len(multi.until(final("a"), 0.5)) == 1
    assert not triton.requests


def test_the_ends_of_a_context(multi: Talker, triton: FakeTriton) -> None:
    """A close behind a flush without text says what is left; any other close ends the context now."""
    triton.script = speak_tone(pace_s=0.01)
    for ending in ({"flush": True}, {"text": "", "flush": True}):  # Pipecat, LiveKit
        multi.send({"text": "Hello there.", "context_id": "a"}, {"context_id": "a", **ending})
        multi.send({"context_id": "a", "close_context": True})
        assert joined(multi.until(final("a")), "audio") == pcm(samples_of("Hello there."))
    triton.script = endless
    multi.send({"text": "Hello there.", "context_id": "b", "flush": True})
    multi.next()
    multi.send({"context_id": "b", "close_context": True})
    multi.until(final("b"))
    multi.send({"text": "Hello there.", "context_id": "c"}, {"context_id": "c", "flush": True})
    multi.send({"context_id": "c", "close_context": True})  # the end of its text
    multi.next()
    multi.send({"context_id": "c", "close_context": True})  # an interruption
    multi.until(final("c"))
    assert multi.quiet(0.1)


def test_thirty_interruptions(multi: Talker, triton: FakeTriton) -> None:
    """The case elevenlabs-contexts."""
    running = [0, 0]

    def script(request: Any, context: Any) -> Iterator[Any]:
        running[0] += 1
        running[1] = max(running)
        context.add_callback(lambda: running.__setitem__(0, running[0] - 1))
        return endless(request, context)

    triton.script = script

    def first(id: str) -> Any:
        return lambda each: each.get("contextId") == id

    for index in range(30):
        id = f"c{index}"
        multi.send({"text": "", "context_id": id})
        multi.send(OPENING | {"context_id": id}, {"text": "A long sentence.", "context_id": id, "flush": True})
        multi.until(first(id))
        multi.send({"text": ""})
        multi.send(*[{"context_id": id, "close_context": True}] * (1 + (index % 3 == 0)))
        if index % 5 == 0:
            multi.send({"context_id": "never", "close_context": True})
    wait_until(lambda: running[0] == 0, 2)
    assert running[1] <= 2  # the server is told of the end before the next beginning, but hears of it on another call
    assert not [each for each in multi.got if "error" in each]
    began = time.monotonic()
    multi.send({"close_socket": True})
    assert multi.closed() == (1000, "")
    assert time.monotonic() - began < 0.5
    last: dict[str, int] = {each["contextId"]: index for index, each in enumerate(multi.got)}
    for index, each in enumerate(multi.got):
        assert not each.get("isFinal") or last[each["contextId"]] == index, "something came after the end"


def test_close_socket_says_what_is_left(multi: Talker, triton: FakeTriton) -> None:
    triton.script = speak_tone(pace_s=0.03)
    multi.send({"text": "Hello there.", "context_id": "a"}, *[{"close_socket": True}] * 3)
    multi.send({"text": "More.", "context_id": "b"})
    assert "close_socket" in multi.until(lambda each: "error" in each)[-1]["message"]
    assert multi.closed() == (1000, "")
    assert joined(multi.got, "audio") == pcm(samples_of("Hello there."))


WRONG: list[Any] = [
    b"\xff",
    "",
    "[]",
    '"x"',
    "nul",
    {},
    {"type": "Reset"},
    {"text": 5},
    {"text": "a", "context_id": {}},
]


def test_a_wrong_message_is_one_error(port: int, multi: Talker, triton: FakeTriton) -> None:
    """The case ws-frames."""
    triton.script = speak_tone(pace_s=0.03)
    multi.send({"text": "This turn goes on.", "context_id": "a", "flush": True, "zz": 1})
    multi.next()
    for message in WRONG:
        multi.send(message)
        error = multi.until(lambda each: "error" in each)[-1]
        assert error["code"] == 1008
        assert error["message"]
    multi.send(json.dumps({"text": " Last.", "context_id": "a", "flush": True}).encode())  # JSON in a binary frame
    multi.send({"context_id": "a", "flush": True}, {"context_id": "a", "close_context": True})
    multi.until(final("a"))
    sent = [each for each in multi.got if "error" not in each]
    assert joined(sent, "audio") == b"".join(pcm(samples_of(each)) for each in spoken(triton))
    assert "".join(spoken(triton)) == "This turn goes on. Last."


def test_refusals(port: int, multi: Talker, triton: FakeTriton) -> None:
    triton.script = lambda request, context: iter([refusal("UNAVAILABLE: the server is full; try again in 3 s")])
    multi.send({"text": "Hello.", "context_id": "a", "flush": True})
    assert multi.next()["contextId"] == "a"
    with talking(port, SINGLE) as talker:
        talker.send({"text": "Hello.", "flush": True})
        code, reason = talker.closed()
        assert (code, talker.got[0]["error"]) == (1013, "unavailable")
        assert "full" in reason
    triton.script = speak_tone()
    multi.send({"text": "Hello.", "context_id": "a", "flush": True})
    assert multi.next()["audio"]


def test_a_silent_socket_is_closed(port: int) -> None:
    for wrong in ("0", "301", "000000003999", "1.5"):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{port}{SINGLE}&inactivity_timeout={wrong}")
        assert refused.value.response.status_code == 400
        assert b"inactivity_timeout" in refused.value.response.body
    with talking(port, SINGLE + "&inactivity_timeout=1") as talker:
        began = time.monotonic()
        code, reason = talker.closed()
        assert (code, "idle" in reason) == (1000, True)
        assert 0.9 < time.monotonic() - began < 2


@pytest.mark.parametrize("name", ["mp3_22050_32", "pcm_8000", "pcm_22050", "ulaw_8000", "opus_48000_64"])
def test_one_stream_for_a_context(port: int, multi: Talker, name: str) -> None:
    """One encoder for all utterances of a context: LiveKit decodes them as one stream."""
    with talking(port, MULTI.replace("pcm_24000", name)) as talker:
        talker.send({"text": "Hello there. How are you? Good.", "context_id": "a"})
        talker.send({"context_id": "a", "flush": True}, {"context_id": "a", "close_context": True})
        raw = joined(talker.until(final("a")), "audio")
    assert raw.count(b"ID3") == raw.count(b"Xing") == raw.count(b"RIFF") == 0
    if name.startswith("opus"):
        assert raw.count(b"OpusHead") == 1
    elif not name.startswith("mp3"):
        rate, size = int(name.split("_")[1]), 1 if name.startswith("ulaw") else 2
        samples = sum(samples_of(each) for each in ("Hello there. ", "How are you? ", "Good."))
        assert abs(len(raw) // size - samples * rate // SAMPLE_RATE) <= 1


def test_the_same_over_http(port: int, triton: FakeTriton) -> None:
    body: dict[str, Any] = {
        "text": "Hello there. How are you?",
        "model_id": "eleven_turbo",
        "voice_settings": {"stability": 1},
    }
    whole, path = pcm(samples_of(body["text"])), "/v1/text-to-speech/alloy"
    for suffix in ("", "/stream"):
        given = request(port, "POST", f"{path}{suffix}?output_format=pcm_24000", body)
        assert (given.status, given.headers["content-type"], given.body) == (200, "audio/pcm", whole)
    assert request(port, "POST", path, body).body.startswith(b"\xff\xfb")
    given = request(port, "POST", f"{path}/with-timestamps?output_format=pcm_24000", body)
    assert base64.b64decode(given.json["audio_base64"]) == whole
    aligned = given.json["alignment"]
    assert "".join(aligned["characters"]) == body["text"]
    ends = aligned["character_end_times_seconds"]
    assert ends == sorted(ends)
    assert ends[-1] <= len(whole) / 2 / SAMPLE_RATE + 0.001
    given = request(port, "POST", f"{path}/stream/with-timestamps?output_format=pcm_24000", body)
    lines = given.body.splitlines()
    assert max(map(len, lines)) < 2**16
    assert b"".join(base64.b64decode(json.loads(line)["audio_base64"]) for line in lines) == whole


def test_http_refusals_and_voices(port: int, triton: FakeTriton) -> None:
    path = "/v1/text-to-speech/alloy/stream"
    cases = [
        (path, {"text": ""}, 400),
        (path, {"text": 5}, 400),
        (path, {}, 400),
        (path + "?output_format=ogg", {"text": "Hello."}, 400),
        ("/v1/text-to-speech/unknown", {"text": "Hello."}, 404),
        ("/v1/text-to-speech/alloy/with-timestamps", {"text": "a" * 5_001}, 400),
    ]
    for address, body, status in cases:
        given = request(port, "POST", address, body)
        assert given.status == status
        assert set(given.json["detail"]) == {"status", "message"}
    assert not triton.requests
    assert request(port, "GET", "/v1/voices").json["voices"][0]["voice_id"] == "alloy"
    assert request(port, "GET", "/v2/voices").json["has_more"] is False
