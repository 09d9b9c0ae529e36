"""Cartesia's protocols before a stand-in for Triton that speaks a tone."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from misotts_client.contract import FRAME_SAMPLES, SAMPLE_RATE
from misotts_gateway.audio.formats import RAW, StreamEncoder
from tests.support.fake_triton import FakeTriton, answer, endless, refusal
from tests.support.gateway import RunningGateway
from tests.support.http import request
from tests.support.tone import inputs, pcm, samples_of, speak_tone, spoken, wave
from tests.support.waiting import wait_until
from tests.support.ws import CARTESIA, FORMAT, NUMBERS, Talker, done, joined, talking, turn


@pytest.fixture
def talker(gateway: RunningGateway, triton: FakeTriton) -> Iterator[Talker]:
    triton.script = speak_tone()
    with talking(gateway.http_port, CARTESIA) as talker:
        yield talker


def test_a_turn_in_one_message(talker: Talker, triton: FakeTriton) -> None:
    talker.send(turn("Hello there."))
    *chunks, end = talker.until(done())
    assert joined(chunks, "data") == pcm(samples_of("Hello there."))
    for chunk in chunks:
        told = {name: chunk[name] for name in ("type", "done", "status_code", "context_id", "flush_id")}
        assert told == {"type": "chunk", "done": False, "status_code": 206, "context_id": "a", "flush_id": 1}
    assert end == {"type": "done", "done": True, "status_code": 200, "context_id": "a"}
    assert inputs(triton.requests[0])["SPEAKER"] == 0


def test_words_become_sentences(talker: Talker, triton: FakeTriton) -> None:
    """The case text-abbreviations: the first sentence starts as soon as the second has begun."""
    for number, word in enumerate(NUMBERS):
        talker.send(turn(word, more=True))
        if word == "Tolkien). ":
            talker.send({"context_id": "none", "cancel": True})  # the messages before it have been read
            assert not triton.requests
        if word == "Was ":
            wait_until(lambda: len(triton.requests) == 1)
            assert number < len(NUMBERS) - 1
    talker.send(turn(""))
    talker.until(done())
    assert [each.strip()[-10:] for each in spoken(triton)] == [" Tolkien).", "t 22,1 °C?", "Yes."]
    assert "".join(spoken(triton)) == "".join(NUMBERS)


def test_an_end_without_text_changes_no_voice_and_no_format(talker: Talker) -> None:
    """Cartesia's Python SDK sends a voice of its own in the last message of a context."""
    talker.send(turn("Hello there.", more=True))
    talker.send(turn("", voice={"id": "6ccbfb76"}, output_format={"container": "raw", "encoding": "pcm_f32le"}))
    *chunks, end = talker.until(done())
    assert joined(chunks, "data") == pcm(samples_of("Hello there."))
    assert end["type"] == "done"


def test_text_waits_for_its_delay_at_most(talker: Talker, triton: FakeTriton) -> None:
    talker.send(turn("It is 5 ", more=True, max_buffer_delay_ms=300))
    began = time.monotonic()
    assert talker.next()["type"] == "chunk"
    assert 0.25 < time.monotonic() - began < 1.5
    # Without a delay each message is an utterance, as Pipecat sends them: sentences without a space between them.
    talker.send(turn("One.", "b", more=True, max_buffer_delay_ms=0))
    talker.send(turn("Two, no end", "b", more=True, max_buffer_delay_ms=0))
    wait_until(lambda: spoken(triton)[1:] == ["One.", "Two, no end"])


def test_a_turn_with_nothing_to_say(talker: Talker, triton: FakeTriton) -> None:
    for nothing in ("", " ", "...", "🙂", "\u200b"):
        began = time.monotonic()
        talker.send(turn(nothing))
        assert talker.until(done()) == [{"type": "done", "done": True, "status_code": 200, "context_id": "a"}]
        assert time.monotonic() - began < 0.5
    assert not triton.requests
    talker.send(turn("Hello."))
    assert joined(talker.until(done()), "data") == pcm(samples_of("Hello."))


def test_an_empty_flush_ends_nothing(talker: Talker, triton: FakeTriton) -> None:
    talker.send(turn("One", more=True), turn("", more=True, flush=True), turn("Two"))
    got = talker.until(done())
    assert [(each["type"], each.get("flush_id")) for each in got if each["type"] != "chunk"] == [
        ("flush_done", 1),
        ("done", None),
    ]
    ids = [each["flush_id"] for each in got if each["type"] == "chunk"]
    assert ids == sorted(ids)
    for id, word in ((1, "One"), (2, "Two")):
        chunks = [each for each in got if each["type"] == "chunk" and each["flush_id"] == id]
        assert joined(chunks, "data") == pcm(samples_of(word))


def test_cancel_stops_within_a_frame_and_nothing_comes_after_its_answer(talker: Talker, triton: FakeTriton) -> None:
    triton.script = endless
    talker.send(turn("A long sentence."), turn("Another one.", "b"))
    talker.until(lambda each: each["type"] == "chunk")
    began = time.monotonic()
    talker.send({"context_id": "a", "cancel": True})
    assert triton.cancelled.wait(1)
    assert time.monotonic() - began < 0.08
    talker.until(done())
    late = talker.until(lambda each: len(talker.got) > 60)
    assert {each["context_id"] for each in late} == {"b"}
    # Contexts that were cancelled, have ended or never were: no error, and no answer that a client waits for.
    triton.script = speak_tone()
    talker.send(
        {"context_id": "b", "cancel": True}, {"context_id": "b", "cancel": True}, {"context_id": "x", "cancel": True}
    )
    talker.until(done("b"))
    talker.send(turn("Hello.", "c"))
    assert {each["context_id"] for each in talker.until(done("c"))} == {"c"}


WRONG: list[tuple[Any, str]] = [
    (b"\xff\xfe", "UTF-8"),
    ("", "JSON"),
    ("[]", "a list"),
    ('"x"', "text"),
    ("nul", "JSON"),
    ("{}", "transcript"),
    ({"type": "Reset"}, "transcript"),
    (turn([]), "transcript"),
    (turn(5), "transcript"),
    (turn("a", context={}), "context_id"),
    (turn("a", context="\ud800"), "context_id"),
    (turn("a", context="b", voice="../x"), "voice"),
    (turn("a", context="b", voice="unknown"), "voice"),
    (turn("a", context="b", output_format=None), "output_format"),
    (turn("a", context="b", output_format={"container": "ogg"}), "output_format.container"),
    (turn("a", context="b", output_format={**FORMAT, "sample_rate": 11_025}), "output_format.sample_rate"),
    (turn("a", context="b", max_buffer_delay_ms=9_000), "max_buffer_delay_ms"),
    (turn("a", output_format={**FORMAT, "sample_rate": 8_000}), "output_format"),
    ({"cancel": True}, "context_id"),
]


def test_a_wrong_message_is_one_error(talker: Talker, triton: FakeTriton) -> None:
    """The case ws-frames: the socket and its other turns go on."""
    triton.script = speak_tone(pace_s=0.05)
    talker.send(turn("This turn goes on.", more=True))
    talker.send(json.dumps(turn(" Always.", zz=1, more=True)).encode())  # JSON in a binary frame
    talker.until(lambda each: each["type"] == "chunk")
    for message, part in WRONG:
        talker.send(message)
        error = talker.until(lambda each: each["type"] == "error")[-1]
        assert error["status_code"] in (400, 404)
        assert part in error["message"]
    triton.script = speak_tone()
    talker.send(turn(""), turn("Last.", "last"))
    talker.until(done("last"))
    assert len([each for each in talker.got if each["type"] == "error"]) == len(WRONG)
    whole = [pcm(samples_of(each)) for each in spoken(triton)[:2]]
    assert joined([each for each in talker.got if each["context_id"] == "a"], "data") == b"".join(whole)
    assert "".join(spoken(triton)) == "This turn goes on. Always.Last."


def test_a_refusal_ends_its_context_only(talker: Talker, triton: FakeTriton) -> None:
    triton.script = lambda request, context: iter([refusal("UNAVAILABLE: the server is full; try again in 3 s")])
    talker.send(turn("Hello."))
    (error,) = talker.until(done())
    assert (error["type"], error["status_code"], error["error_code"]) == ("error", 503, "unavailable")
    talker.send(turn("Hello. And the", "b", more=True, max_buffer_delay_ms=200))  # the rest waits for its sentence
    talker.until(done("b"))
    triton.script = speak_tone()
    assert talker.quiet(0.4), "the rest of a context that has failed is not spoken"
    talker.send(turn("Hello."))
    assert joined(talker.until(done()), "data")


WORDS = [
    "こんにちは。お元気ですか。",
    "안녕하세요 여러분.",
    "Naïve café — “quoted”, e.g. 3.14!",
    "  two  spaces ",
    "🙂 hi 🙂",
]


def test_word_times(talker: Talker) -> None:
    """The case timestamps-cjk: one turn in three messages."""
    for words in WORDS:
        third = len(words) // 3
        for index, part in enumerate([words[:third], words[third : 2 * third], words[2 * third :]]):
            talker.send(turn(part, add_timestamps=True, more=index < 2))
        check_times(talker.until(done()), words)


def test_word_times_end_with_a_cancel(talker: Talker, triton: FakeTriton) -> None:
    triton.script = speak_tone(pace_s=0.03)
    words = "This is a sentence of many words that is cancelled in its middle, so its end is never heard."
    talker.send(turn(words, add_timestamps=True))
    talker.until(lambda each: len(talker.got) > 12)
    talker.send({"context_id": "a", "cancel": True})
    talker.until(done())
    given = check_times(talker.got, words, complete=False)
    assert 1 < len(given) < 10


def check_times(messages: list[Any], words: str, complete: bool = True) -> list[str]:
    """Check the times in the messages of one context, in the order in which they came; return the words."""
    audio_s = latest = 0.0
    given, ends, position = [], [], 0
    for each in messages:
        if each["type"] == "chunk":
            audio_s += len(joined([each], "data")) / 2 / SAMPLE_RATE
        elif each["type"] == "timestamps":
            timed = each["word_timestamps"]
            for word, start, end in zip(timed["words"], timed["start"], timed["end"], strict=True):
                position = words.index(word, position) + len(word)
                assert latest <= start <= end
                assert start >= audio_s - 0.001, "it came later than its audio"
                latest = start
                given.append(word)
                ends.append(end)
    assert max(ends) <= audio_s + 0.08
    if complete:
        assert "".join(given) == "".join(words.split())
    return given


def test_raw_samples(talker: Talker) -> None:
    """The case raw-samples: whole samples in each message; joined, they are the tone as encoded in one piece."""
    sizes = {"pcm_s16le": 2, "pcm_f32le": 4, "pcm_mulaw": 1, "pcm_alaw": 1}
    for encoding, size in sizes.items():
        for rate in (8_000, 16_000, 22_050, 24_000, 44_100, 48_000):
            id = f"{encoding} {rate}"
            talker.send(turn("Hi.", id, output_format={**FORMAT, "encoding": encoding, "sample_rate": rate}))
            raws = [joined([each], "data") for each in talker.until(done(id))]
            assert not any(len(raw) % size for raw in raws)
            encoder = StreamEncoder(RAW[encoding], rate)
            assert b"".join(raws) == encoder.encode(wave(samples_of("Hi."))) + encoder.finish()


def test_a_failure_is_no_audio(talker: Talker, triton: FakeTriton) -> None:
    def script(request: Any, context: Any) -> Iterator[Any]:
        for frame in range(3):
            yield answer(frame=frame, audio=wave(FRAME_SAMPLES, frame * FRAME_SAMPLES))
        yield answer(samples=0, frame=3, finish="error: INTERNAL: the engine failed")

    triton.script = script
    talker.send(turn("Hello."))
    *chunks, error = talker.until(done())
    assert joined(chunks, "data") == pcm(3 * FRAME_SAMPLES)
    assert (error["type"], error["status_code"]) == ("error", 502)
    assert "the engine failed" in error["message"]


def test_the_same_over_http(gateway: RunningGateway, triton: FakeTriton) -> None:
    triton.script = speak_tone()
    port = gateway.http_port
    body = {**turn(""), "transcript": "Hello there. How are you?"}
    whole = pcm(samples_of(body["transcript"]))
    given = request(port, "POST", "/tts/bytes", body)
    assert (given.status, given.headers["content-type"]) == (200, "audio/pcm")
    assert given.body == whole
    for container, start in (("wav", b"RIFF"), ("mp3", b"\xff\xf3")):
        body["output_format"] = {"container": container, "sample_rate": 24_000.0}
        assert request(port, "POST", "/tts/bytes", body).body.startswith(start)
    body |= {"output_format": FORMAT, "add_timestamps": True}
    given = request(port, "POST", "/tts/sse", body)
    assert given.headers["content-type"] == "text/event-stream"
    told = [line.partition("data: ")[2] for line in given.body.decode().split("\n\n")[:-1]]
    assert max(map(len, told)) < 2**16
    messages = [json.loads(line) for line in told]
    assert joined(messages, "data") == whole
    assert messages[-1]["type"] == "done"
    check_times(messages, body["transcript"])
    assert request(port, "GET", "/voices").json["data"][0]["id"] == "alloy"


@pytest.mark.parametrize("path", ["/tts/bytes", "/tts/sse"])
def test_http_refusals(gateway: RunningGateway, triton: FakeTriton, path: str) -> None:
    for field, value in (("transcript", ""), ("transcript", 5), ("voice", "A"), ("output_format", {"sample_rate": 7})):
        given = request(gateway.http_port, "POST", path, {**turn(""), "transcript": "Hello.", field: value})
        assert given.status == 400
        assert field in given.json["message"]
    assert not triton.requests
    triton.script = lambda request, context: iter([refusal("UNAVAILABLE: the server is full; try again in 3 s")])
    given = request(gateway.http_port, "POST", path, {**turn(""), "transcript": "Hello."})
    assert (given.status, given.headers["retry-after"]) == (503, "3")
