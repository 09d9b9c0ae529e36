"""What bad input gets: an error that names the field, the limit and what came; nobody else notices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from misotts.serve.local import RunningServer
from misotts_client import Client, InvalidArgument, NotFound, Segment
from misotts_client.errors import DeadlineExceeded, MisoError, Unavailable, error_from_text
from tests.support.raw import infer, text

CLIP = np.zeros(24_000, np.float32)
NAN_CLIP = np.full(2_000, np.nan, np.float32)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        (dict(text=""), "TEXT", "empty"),
        (dict(text=" \n\t "), "TEXT", "only spaces"),
        (dict(text="a" * 4_001), "TEXT", "at most 4000 code points, got 4001"),
        (dict(speaker=-1), "SPEAKER", "0 to 99, got -1"),
        (dict(speaker=100), "SPEAKER", "0 to 99, got 100"),
        (dict(voice="../etc/passwd"), "VOICE", r"must match"),
        (dict(voice=""), "VOICE", r"must match"),
        (dict(temperature=float("nan")), "TEMPERATURE", "0 to 2, got nan"),
        (dict(temperature=-0.1), "TEMPERATURE", "0 to 2, got -0.1"),
        (dict(temperature=2.5), "TEMPERATURE", "0 to 2, got 2.5"),
        (dict(top_k=0), "TOP_K", "1 to 2048, got 0"),
        (dict(top_k=2049), "TOP_K", "1 to 2048, got 2049"),
        (dict(max_audio_ms=79), "MAX_AUDIO_MS", "80 to 160000, got 79"),
        (dict(max_audio_ms=160_001), "MAX_AUDIO_MS", "80 to 160000, got 160001"),
        (dict(text="word " * 100, max_audio_ms=160_000), "MAX_AUDIO_MS", "at most .* got 160000"),
        (dict(max_audio_ms=1_600_001), "MAX_AUDIO_MS", "80 to 160000, got 1600001"),
        (dict(chunk_frames=-1), "CHUNK_FRAMES", "0 to 25, got -1"),
        (dict(chunk_frames=26), "CHUNK_FRAMES", "0 to 25, got 26"),
        (dict(timeout_ms=-1), "TIMEOUT_MS", "0 to 2147483647, got -1"),
        (dict(context=[Segment("hi", 100, CLIP)]), "CONTEXT_SPEAKER", "0 to 99, got 100"),
        (dict(context=[Segment(" ", 0, CLIP)]), "CONTEXT_TEXT", "only spaces"),
        (dict(context=[Segment("hi", 0, CLIP[:0])]), "CONTEXT_SAMPLES", "at least 1"),
        (dict(context=[Segment("hi", 0, NAN_CLIP)]), "CONTEXT_AUDIO", "finite, got NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_out_of_limits(client: Client, fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        client.speak(fields.pop("text", "Hello."), **{"max_audio_ms": 400, **fields})
    assert caught.value.field == field


def test_unknown_voice(client: Client) -> None:
    with pytest.raises(NotFound, match="no voice named 'bob'") as caught:
        client.speak("Hello.", voice="bob")
    assert caught.value.field == "VOICE"


CONTEXT = dict(
    CONTEXT_TEXT=text(b"hi"),
    CONTEXT_SPEAKER=np.zeros(1, np.int32),
    CONTEXT_SAMPLES=np.array([2_000], np.int32),
    CONTEXT_AUDIO=np.zeros(2_000, np.float32),
)


@pytest.mark.parametrize(
    ("inputs", "field", "words"),
    [
        (dict(TEXT=text(b"caf\xe9")), "TEXT", "must be UTF-8, byte 3 is not"),
        (dict(TEXT=np.array([b"a", b"b"], np.object_)), "TEXT", r"Expected \[1\], got \[2\]"),
        (dict(TEXT=np.zeros(1, np.int32)), "TEXT", "'INT32', but .* expects 'BYTES'"),
        (dict(SPEAKER=np.zeros(1, np.int32)), "TEXT", "required"),
        ({}, "TEXT", "required"),
        (dict(TEXT=text(b"a"), TOP_K=np.zeros(1, np.int64)), "TOP_K", "'INT64', but .* expects 'INT32'"),
        (dict(TEXT=text(b"a"), SEED=np.zeros((1, 1), np.int64)), "SEED", r"Expected \[1\]"),
        (
            dict(TEXT=text(b"a"), **{**CONTEXT, "CONTEXT_AUDIO": np.zeros(5, np.float32)}),
            "CONTEXT_AUDIO",
            "2000, got 5",
        ),
        (
            dict(TEXT=text(b"a"), **{**CONTEXT, "CONTEXT_SPEAKER": np.zeros(2, np.int32)}),
            "CONTEXT_SPEAKER",
            "one element per text, 1, got 2",
        ),
        (
            dict(TEXT=text(b"a"), **{**CONTEXT, "CONTEXT_SAMPLES": np.array([-5], np.int32)}),
            "CONTEXT_SAMPLES",
            "at least 1 .* got -5",
        ),
        (dict(TEXT=text(b"a"), CONTEXT_TEXT=text(b"hi")), "CONTEXT_SPEAKER", "left out"),
        (dict(TEXT=text(b"a"), **{**CONTEXT, "CONTEXT_TEXT": text(b"\xff")}), "CONTEXT_TEXT", "UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_malformed_tensors(server: RunningServer, inputs: dict[str, np.ndarray], field: str, words: str) -> None:
    response = infer(server.url, "misotts", **inputs)
    error = error_from_text(response.error_message)
    assert isinstance(error, InvalidArgument)
    assert error.field == field
    with pytest.raises(MisoError, match=words):
        raise error


def test_a_context_of_no_segments_is_none(server: RunningServer) -> None:
    nothing = {name: value[:0] for name, value in CONTEXT.items()}
    spoken = infer(server.url, "misotts", TEXT=text(b"a"), MAX_AUDIO_MS=np.array([80], np.int32), **nothing)
    assert spoken.error_message == ""
    assert spoken.infer_response.outputs


def test_a_refusal_says_nothing_of_code_or_paths(client: Client, server: RunningServer) -> None:
    refused = infer(server.url, "misotts", TEXT=text(b"\xff"))
    for word in (".py", "line ", "/", "Traceback"):
        assert word not in refused.error_message


def test_too_much_context_audio(client: Client) -> None:
    context = [Segment("hi", 0, np.zeros(2048 * 1920 + 1, np.float32))]
    with pytest.raises(InvalidArgument, match="at most 3932160 samples in all, got 3932161"):
        client.speak("Hello.", context=context)


def test_too_many_context_segments(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="at most 1024 segments, got 1025") as caught:
        client.speak("Hello.", context=[Segment("hi", 0, CLIP[:1])] * 1025)
    assert caught.value.field == "CONTEXT_TEXT"


def test_a_timeout_ends_the_utterance(client: Client) -> None:
    with pytest.raises(DeadlineExceeded, match="TIMEOUT_MS"):
        client.speak("Hello.", max_audio_ms=60_000, timeout_ms=500)


def test_a_stream_goes_on_beside_refusals(client: Client) -> None:
    with client.stream("Hello.", seed=3, max_audio_ms=3_000) as stream:
        chunks = [next(iter(stream))]
        for _ in range(10):
            with pytest.raises(InvalidArgument):
                client.speak("")
        chunks += list(stream)
    assert chunks[-1].finish == "length"
    assert sum(len(chunk.audio) for chunk in chunks) == 37 * 1920


def test_a_full_server_says_when_to_come_back(client: Client) -> None:
    """More callers than seats and places in line: each is served whole or told at once."""

    def call(number: int) -> int | float | None:
        """Samples heard, or the seconds after which to come back."""
        try:
            return len(client.speak("Hello.", seed=number, max_audio_ms=400).audio)
        except Unavailable as error:
            return error.retry_after_s

    with ThreadPoolExecutor(120) as pool:
        told = list(pool.map(call, range(120)))
    refused = [seconds for seconds in told if seconds != 5 * 1920]
    assert all(seconds and seconds <= 30 for seconds in refused)
    assert 0 < len(refused) <= 120 - 72, "8 run and 64 wait"
