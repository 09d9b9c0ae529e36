"""`POST /v1/audio/speech` before a stand-in for Triton that speaks a tone."""

import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from misotts_client.contract import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE
from misotts_gateway.audio.formats import FORMATS
from tests.support.decoded import PADDING, assert_one_file, decode, resampled
from tests.support.fake_triton import FakeTriton, answer, endless, refusal, silent
from tests.support.gateway import RunningGateway
from tests.support.http import JSON, SPEECH, arrivals, audio_of, dechunked, events, opened, read_until, request, speak
from tests.support.tone import inputs, samples_of, speak_tone, wave
from tests.support.waiting import wait_until

TEXT = "Hello there. How are you?"


@pytest.fixture
def port(gateway: RunningGateway, triton: FakeTriton) -> int:
    triton.script = speak_tone()
    return gateway.http_port


def pcm(samples: int) -> bytes:
    return np.rint(wave(samples) * 32_767).astype("<i2").tobytes()


def test_raw_audio_is_the_utterance(port: int, triton: FakeTriton) -> None:
    given = speak(port, TEXT, response_format="pcm", seed=7, temperature=0.5, top_k=9)
    assert given.status == 200
    assert given.body == pcm(samples_of(TEXT))
    assert given.headers["content-type"] == "audio/pcm"
    assert given.headers["x-misotts-seed"] == "7"
    assert "x-misotts-ignored" not in given.headers
    (sent,) = triton.requests
    # OpenAI's voice is the model's speaker 0, and nothing is sent that the request did not ask for.
    expected = {"TEXT": TEXT, "SEED": 7, "TEMPERATURE": 0.5, "TOP_K": 9, "SPEAKER": 0}
    assert {name: value for name, value in inputs(sent).items() if name != "TICKET"} == expected


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", 'application/json;charset="UTF-8"', "Application/JSON"]
)
def test_content_types_of_json(port: int, content_type: str) -> None:
    given = speak(port, headers={"content-type": content_type}, response_format="pcm", seed=7)
    nulls = dict.fromkeys(
        ("instructions", "speed", "stream_format", "temperature", "sample_rate", "session", "input_type")
    )
    plain = speak(port, response_format="pcm", seed=7, **nulls)
    assert given.status == plain.status == 200
    assert given.body == plain.body
    assert "x-misotts-ignored" not in plain.headers


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_other_content_types_are_refused(port: int, triton: FakeTriton, content_type: str | None) -> None:
    given = speak(port, headers={"content-type": content_type} if content_type else {})
    assert given.status == 415
    assert "application/json" in given.error["message"]
    assert not triton.requests


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ["a"]}, "input"),
        ({"input": 5}, "input"),
        ({"input": ""}, "input"),
        ({"input": "   "}, "input"),
        ({"input": "\n"}, "input"),
        ({"input": "..."}, "input"),
        ({"input": "🙂"}, "input"),
        ({"input": "\u200b"}, "input"),
        ({"input": "\ud800 a"}, "input"),
        ({"input": "a" * 100_001}, "input"),
        ({"input": None}, "input"),
        ({"model": 5}, "model"),
        ({"voice": 5}, "voice"),
        ({"voice": {"name": "alloy"}}, "voice"),
        ({"voice": "../../x"}, "voice"),
        ({"voice": "ANNA"}, "voice"),
        ({"speed": "1.0"}, "speed"),
        ({"speed": 1.5}, "speed"),
        ({"speed": True}, "speed"),
        ({"seed": "7"}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": -1e308}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 2**31}, "top_k"),
        ({"max_audio_ms": 79}, "max_audio_ms"),
        ({"response_format": "MP3"}, "response_format"),
        ({"response_format": "ogg"}, "response_format"),
        ({"response_format": "mp4"}, "response_format"),
        ({"response_format": 7}, "response_format"),
        ({"response_format": ["mp3"]}, "response_format"),
        ({"response_format": "mulaw", "sample_rate": 24_000}, "sample_rate"),
        ({"sample_rate": 11_025}, "sample_rate"),
        ({"sample_rate": "24000"}, "sample_rate"),
        ({"stream_format": "websocket"}, "stream_format"),
        ({"input_type": "html"}, "input_type"),
        ({"input_type": "ssml"}, "input"),
        ({"input_type": "ssml", "input": "<speak><break time='1s'/></speak>"}, "input"),
        ({"input_type": "ssml", "input": '<speak>a<break time="11s"/></speak>'}, "input"),
        ({"apply_text_normalization": "maybe"}, "apply_text_normalization"),
    ],
)
def test_a_wrong_field_is_named(port: int, triton: FakeTriton, fields: dict[str, Any], param: str) -> None:
    given = speak(
        port, **{"text": TEXT, **{("text" if name == "input" else name): value for name, value in fields.items()}}
    )
    assert given.status == 400
    assert given.error["param"] == param
    assert given.error["type"] == "invalid_request_error"
    assert not triton.requests


def test_an_unknown_format_is_told_all_formats(port: int) -> None:
    message = speak(port, response_format="ogg").error["message"]
    assert all(name in message for name in FORMATS)


def test_an_unknown_voice(port: int) -> None:
    given = speak(port, voice="unknown")
    assert (given.status, given.error["param"], given.error["code"]) == (404, "voice", "voice_not_found")
    assert speak(port, voice={"id": "alloy"}).status == 200


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"7", b"\xff{}", b"[" * 100_000, b'{"input":NaN}', b'{"seed":' + b"9" * 5_000 + b"}", b"{}"],
)
def test_a_body_that_is_no_request(port: int, raw: bytes) -> None:
    given = request(port, "POST", SPEECH, raw)
    assert given.status == 400
    assert given.error


def test_a_body_that_is_too_large(port: int) -> None:
    given = request(port, "POST", SPEECH, b" " * 1_300_000)
    assert given.status == 413
    assert given.error["code"] == "request_too_large"


def test_fields_without_an_effect_are_named(port: int) -> None:
    given = speak(port, instructions="Whisper.", stream=True, zz=1)
    assert given.status == 200
    assert given.headers["x-misotts-ignored"] == "instructions, stream, zz"
    odd = speak(port, **{"a\r\nset-cookie: b": 1, "🙂": 1, "": 1, "é": 1, "x" * 100: 1})
    assert odd.status == 200
    assert "set-cookie" not in odd.headers
    assert odd.headers["x-misotts-ignored"].isascii()
    many = speak(port, **{f"f{index}": 1 for index in range(10_000)})
    assert many.headers["x-misotts-ignored"].endswith("and 9968 more")


def test_the_default_format_is_mp3(port: int) -> None:
    for fields in ({}, {"response_format": None}):
        given = speak(port, **fields)
        assert given.headers["content-type"] == "audio/mpeg"
        assert given.body[:2] == b"\xff\xf3"


def speak_noise(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    """Speak noise of its own for each text, a frame for 40 characters: no part of it is like another."""
    text = inputs(request)["TEXT"].encode()
    frames = len(text) // 40 + 1
    noise = np.random.default_rng(zlib.crc32(text)).standard_normal(frames * FRAME_SAMPLES)
    smooth = np.convolve(noise, np.hanning(16) / 40, "same").astype(np.float32)
    for index, audio in enumerate(np.split(smooth, frames)):
        yield answer(frame=index, audio=audio, finish="eos" if index == frames - 1 else "")


SENTENCES = " ".join(
    f"This is sentence number {number} of a text that the gateway must divide." for number in range(60)
)


@pytest.mark.parametrize("text", ["Hello there.", SENTENCES], ids=["two words", "60 sentences"])
def test_every_format_has_the_whole_text_raw_and_in_events(port: int, triton: FakeTriton, text: str) -> None:
    triton.script = speak_noise
    spoken = np.frombuffer(speak(port, text, response_format="pcm").body, "<i2").astype(np.float32) / 32_767
    frames = sum(len(inputs(each)["TEXT"]) // 40 + 1 for each in triton.requests)
    assert len(spoken) == frames * FRAME_SAMPLES
    usage = {"input_tokens": len(text), "output_tokens": frames, "total_tokens": len(text) + frames}
    for name, format in FORMATS.items():
        raw = speak(port, text, response_format=name)
        told = speak(port, text, response_format=name, stream_format="sse")
        assert raw.headers["content-type"] == format.content_type
        assert told.headers["content-type"] == "text/event-stream"
        *deltas, done = events(told.body)
        assert done == {"type": "speech.audio.done", "usage": usage}
        streams = [raw.body, audio_of(deltas)]
        if name != "opus":  # the serial number of an Ogg stream is random
            assert streams[0] == streams.pop()
        for stream in streams:
            assert_one_file(name, stream, frames * FRAME_MS / 1000)
            decoded, rate = decode(name, format.default_rate, stream)
            wanted = resampled(spoken, rate)
            extra = len(decoded) - len(wanted)
            assert 0 <= extra <= PADDING.get(name, 0), name
            tail = wanted[-rate // 5 :]
            last = decoded[len(wanted) - len(tail) :]
            at = int(np.argmax(np.correlate(last, tail, "valid")))
            assert np.corrcoef(last[at : at + len(tail)], tail)[0, 1] > 0.9, name


def test_no_buffer_no_compression_short_lines_and_each_event_at_once(port: int, triton: FakeTriton) -> None:
    triton.script = speak_tone(pace_s=0.08, first=25)
    headers = {**JSON, "accept-encoding": "gzip, deflate, br"}
    for stream_format in ("sse", "audio"):
        body = {"input": "x" * 45, "response_format": "pcm", "sample_rate": 48_000, "stream_format": stream_format}
        with opened(port, body, headers) as connection:
            got = arrivals(connection)
        head, _, first = got[0][1].partition(b"\r\n\r\n")
        named = head.decode().lower()
        assert "x-accel-buffering: no" in named
        assert "cache-control: no-cache" in named
        assert "content-encoding" not in named
        raw, complete = dechunked(first + b"".join(piece for _, piece in got[1:]))
        assert complete
        assert len(audio_of(events(raw)) if stream_format == "sse" else raw) == 4 * samples_of("x" * 45)
        assert max(map(len, raw.split(b"\n"))) <= 65_536 or stream_format == "audio"
        # 9 chunks come 80 ms apart; each leaves at once, so something arrives in every interval.
        times = np.array([at for at, _ in got])
        intervals = np.diff(times)
        assert 0.04 < np.median(intervals[intervals > 0.01]) < 0.08 + 0.05
        assert times[-1] - times[0] > 0.5


def test_the_status_waits_for_the_first_audio(port: int, triton: FakeTriton) -> None:
    refusals = {
        "UNAVAILABLE: the server is full; try again in 3 s": (503, "3"),
        "UNAVAILABLE: the server is full; try again in 300 s": (503, "60"),
        "UNAVAILABLE: the server is full": (503, "1"),
        "INVALID_ARGUMENT: TEXT: must be shorter": (400, None),
        "NOT_FOUND: VOICE: no voice named 'x' is registered": (404, None),
        "DEADLINE_EXCEEDED: TIMEOUT_MS has passed": (504, None),
        "in ensemble 'misotts', inner words": (502, None),
    }
    for text, (status, retry_after) in refusals.items():
        triton.script = refuses(text)
        for stream_format in ("sse", "audio"):
            given = speak(port, stream_format=stream_format)
            assert (given.status, given.headers.get("retry-after")) == (status, retry_after)
            assert "ensemble" not in given.error["message"]


def refuses(text: str) -> Any:
    return lambda request, context: iter([refusal(text)])


def fails_after(chunks: int) -> Any:
    def script(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for index in range(chunks):
            yield answer(frame=index, audio=wave(FRAME_SAMPLES, index * FRAME_SAMPLES))
        yield answer(samples=0, frame=chunks, finish="error: INTERNAL: the engine failed")

    return script


def test_a_failure_after_the_beginning_cuts_raw_audio_and_ends_events_with_an_error(
    port: int, triton: FakeTriton
) -> None:
    triton.script = fails_after(3)
    with opened(port, {"input": TEXT, "response_format": "pcm"}) as connection:
        raw = b"".join(piece for _, piece in arrivals(connection)).partition(b"\r\n\r\n")[2]
    body, complete = dechunked(raw)
    assert not complete
    assert body == pcm(3 * FRAME_SAMPLES)  # every byte belongs to the tone
    *deltas, end = events(speak(port, response_format="pcm", stream_format="sse").body)
    assert audio_of(deltas) == body
    assert end["type"] == "error"
    assert "the engine failed" in end["error"]["message"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_caller_that_leaves_is_gone_at_once(port: int, triton: FakeTriton, begun: bool) -> None:
    triton.script = endless if begun else silent
    with opened(port, {"input": TEXT}) as connection:
        wait_until(lambda: bool(triton.requests), 5)
        if begun:
            read_until(connection, b"\xff\xf3")
    left = time.perf_counter()
    assert triton.cancelled.wait(2)
    assert time.perf_counter() - left < 0.3


def test_a_long_text_is_one_stream_of_whole_sentences(port: int, triton: FakeTriton) -> None:
    sentences = [f"This is sentence number {number} of a text that is split." for number in range(60)]
    text = " ".join(sentences)
    given = speak(port, text, response_format="wav", seed=2**63 - 2)
    spoken = [inputs(each) for each in triton.requests]
    assert len(spoken) > 5
    assert " ".join(each["TEXT"] for each in spoken) == text
    assert all(each["TEXT"].endswith("split.") for each in spoken)
    # Each utterance has a seed of its own, which the first one's tells.
    assert [each["SEED"] for each in spoken[:3]] == [2**63 - 2, 2**63 - 1, -(2**63)]
    triton.requests.clear()
    drawn = int(speak(port, text, response_format="wav").headers["x-misotts-seed"])
    assert [inputs(each).get("SEED") for each in triton.requests[:3]] == [None, drawn + 1, drawn + 2]
    assert not any("MAX_AUDIO_MS" in each for each in spoken)
    assert given.body.count(b"RIFF") == 1
    assert len(given.body) == 44 + 2 * sum(samples_of(each["TEXT"]) for each in spoken)


def test_a_later_utterance_of_a_turn_waits_for_its_place(port: int, triton: FakeTriton) -> None:
    text = " ".join(f"This is sentence number {number} of a text that is split." for number in range(20))
    spoken = speak_tone()

    def script(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        first = len(triton.requests) == 2  # the first try of the second utterance
        return iter([refusal("UNAVAILABLE: full; try again in 0.1 s")]) if first else spoken(request, context)

    triton.script = script
    given = speak(port, text, response_format="pcm")
    texts = [inputs(each)["TEXT"] for each in triton.requests]
    assert texts[1] == texts[2]
    assert " ".join([texts[0], *texts[2:]]) == text
    assert len(given.body) == 2 * sum(samples_of(each) for each in [texts[0], *texts[2:]])


def test_the_longest_audio_counts_for_the_whole_text(port: int, triton: FakeTriton) -> None:
    text = " ".join(["This is a sentence of some length, and it ends."] * 20)
    given = speak(port, text, response_format="pcm", max_audio_ms=20_000)
    assert len(given.body) == 2 * 20 * SAMPLE_RATE
    assert inputs(triton.requests[0])["MAX_AUDIO_MS"] == 20_000
    assert inputs(triton.requests[-1])["MAX_AUDIO_MS"] < 20_000


def test_breaks_are_digital_silence(port: int, triton: FakeTriton) -> None:
    text = '<speak><break time="80ms"/>Hello.<break time="1.5s"/>Bye.<break time="40ms"/></speak>'
    given = speak(port, text, response_format="pcm", input_type="ssml")
    assert [inputs(each)["TEXT"] for each in triton.requests] == ["Hello.", "Bye."]
    hello, bye = pcm(samples_of("Hello.")), pcm(samples_of("Bye."))
    assert given.body == bytes(2 * 1_920) + hello + bytes(2 * 36_000) + bye + bytes(2 * 960)


def test_silence_before_speech_waits_for_speech(port: int, triton: FakeTriton) -> None:
    triton.script = lambda request, context: iter([refusal("UNAVAILABLE: full")])
    assert speak(port, '<speak><break time="80ms"/>Hello.</speak>', input_type="ssml").status == 503


def test_numbers_as_words(port: int, triton: FakeTriton) -> None:
    speak(port, "I have 3 cats.", apply_text_normalization="on")
    speak(port, "I have 3 cats.")
    assert [inputs(each)["TEXT"] for each in triton.requests] == ["I have three cats.", "I have 3 cats."]


def test_requests_beside_each_other_do_not_mix(port: int, triton: FakeTriton) -> None:
    texts = ["a" * count for count in range(5, 25)]
    given: dict[str, bytes] = {}

    def ask(text: str) -> None:
        given[text] = speak(port, text, response_format="pcm").body

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == {text: pcm(samples_of(text)) for text in texts}
