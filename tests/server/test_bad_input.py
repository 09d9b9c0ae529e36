"""The server answers bad input with an error that names the field, the limit and the value; other streams go on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES
from misotts.serve.local import RunningServer
from misotts_client import Client, InvalidArgument, NotFound, Segment, SpeechRequest
from misotts_client.errors import DeadlineExceeded, MisoError, Unavailable, error_from_text
from tests.support.raw import infer, text

CLIP = np.zeros(24_000, np.float32)
NAN_CLIP = np.full(2_000, np.nan, np.float32)


OUTSIDE: dict[str, list[Any]] = {
    "TEXT": ["", " \n\t ", "a" * 4_001],
    "SPEAKER": [-1, 100],
    "VOICE": ["../etc/passwd", ""],
    "TEMPERATURE": [float("nan"), -0.1, 2.5],
    "TOP_K": [0, 2049],
    "MAX_AUDIO_MS": [79, 160_001, 1_600_001],
    "CHUNK_FRAMES": [-1, 26],
    "TIMEOUT_MS": [-1],
}


@pytest.mark.parametrize("field", OUTSIDE)
def test_a_value_outside_its_limits_is_refused(client: Client, field: str, pinned_text: Callable[..., None]) -> None:
    for value in OUTSIDE[field]:
        with pytest.raises(InvalidArgument) as caught:
            client.speak(SpeechRequest("Hello.", max_audio_ms=400), **{field.lower(): value})
        assert caught.value.field == field
        pinned_text(caught.value.message)


def test_a_text_that_leaves_too_little_room_for_max_audio_ms_is_refused(
    client: Client, pinned_text: Callable[..., None]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.speak("word " * 100, max_audio_ms=160_000)
    assert caught.value.field == "MAX_AUDIO_MS"
    pinned_text(caught.value.message)


BAD_CONTEXTS = {
    "speaker": ("CONTEXT_SPEAKER", [Segment("hi", 100, CLIP)]),
    "no words": ("CONTEXT_TEXT", [Segment(" ", 0, CLIP)]),
    "too many segments": ("CONTEXT_TEXT", [Segment("hi", 0, CLIP[:1])] * 1025),
    "no audio": ("CONTEXT_SAMPLES", [Segment("hi", 0, CLIP[:0])]),
    "NaN": ("CONTEXT_AUDIO", [Segment("hi", 0, NAN_CLIP)]),
    "too much audio": ("CONTEXT_AUDIO", [Segment("hi", 0, np.zeros(2048 * FRAME_SAMPLES + 1, np.float32))]),
}


@pytest.mark.parametrize("case", BAD_CONTEXTS)
def test_a_context_outside_its_limits_is_refused(client: Client, case: str, pinned_text: Callable[..., None]) -> None:
    field, context = BAD_CONTEXTS[case]
    with pytest.raises(InvalidArgument) as caught:
        client.speak("Hello.", context=context, max_audio_ms=400)
    assert caught.value.field == field
    pinned_text(caught.value.message)


def test_an_unknown_voice_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="'bob'") as caught:
        client.speak("Hello.", voice="bob")
    assert caught.value.field == "VOICE"


CONTEXT = dict(
    CONTEXT_TEXT=text(b"hi"),
    CONTEXT_SPEAKER=np.zeros(1, np.int32),
    CONTEXT_SAMPLES=np.array([2_000], np.int32),
    CONTEXT_AUDIO=np.zeros(2_000, np.float32),
)


def refusal(server: RunningServer, **inputs: np.ndarray) -> InvalidArgument:
    error = error_from_text(infer(server.url, "misotts", **inputs).error_message)
    assert isinstance(error, InvalidArgument)
    return error


@pytest.mark.parametrize(
    ("inputs", "field", "words"),
    [
        (dict(TEXT=np.array([b"a", b"b"], np.object_)), "TEXT", r"\[1\], got BYTES \[2\]"),
        (dict(TEXT=np.zeros(1, np.int32)), "TEXT", r"BYTES \[1\], got INT32"),
        (dict(TEXT=text(b"a"), TOP_K=np.zeros(1, np.int64)), "TOP_K", r"INT32 \[1\], got INT64"),
        (dict(TEXT=text(b"a"), SEED=np.zeros((1, 1), np.int64)), "SEED", r"INT64 \[1\], got INT64 \[1, 1\]"),
        (dict(SPEAKER=np.zeros(1, np.int32)), "TEXT", "required"),
        ({}, "TEXT", "required"),
    ],
    ids=["two texts", "TEXT INT32", "TOP_K INT64", "SEED of two dimensions", "no TEXT", "nothing"],
)
def test_the_gateway_refuses_tensors_of_the_wrong_type_or_shape(
    server: RunningServer, inputs: dict[str, np.ndarray], field: str, words: str
) -> None:
    error = refusal(server, **inputs)
    assert error.field == field
    with pytest.raises(MisoError, match=words):
        raise error


BAD_TENSORS: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "text not UTF-8": ("TEXT", dict(TEXT=text(b"caf\xe9"))),
    "audio too short": ("CONTEXT_AUDIO", {**CONTEXT, "CONTEXT_AUDIO": np.zeros(5, np.float32)}),
    "two speakers": ("CONTEXT_SPEAKER", {**CONTEXT, "CONTEXT_SPEAKER": np.zeros(2, np.int32)}),
    "negative samples": ("CONTEXT_SAMPLES", {**CONTEXT, "CONTEXT_SAMPLES": np.array([-5], np.int32)}),
    "no speaker": ("CONTEXT_SPEAKER", dict(CONTEXT_TEXT=text(b"hi"))),
    "context not UTF-8": ("CONTEXT_TEXT", {**CONTEXT, "CONTEXT_TEXT": text(b"\xff")}),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_contradict_each_other_or_are_not_utf_8_are_refused(
    server: RunningServer, case: str, pinned_text: Callable[..., None]
) -> None:
    field, inputs = BAD_TENSORS[case]
    error = refusal(server, **{"TEXT": text(b"a"), **inputs})
    assert error.field == field
    pinned_text(error.message)


def test_empty_context_tensors_are_no_context(server: RunningServer) -> None:
    nothing = {name: value[:0] for name, value in CONTEXT.items()}
    spoken = infer(server.url, "misotts", TEXT=text(b"a"), MAX_AUDIO_MS=np.array([80], np.int32), **nothing)
    assert spoken.error_message == ""
    assert spoken.infer_response.outputs


def test_an_error_reveals_neither_code_nor_paths(server: RunningServer) -> None:
    refused = infer(server.url, "misotts", TEXT=text(b"\xff"))
    for word in (".py", "line ", "/", "Traceback"):
        assert word not in refused.error_message


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
    assert sum(len(chunk.audio) for chunk in chunks) == 37 * FRAME_SAMPLES


def test_a_full_server_refuses_with_a_time_to_retry(server: RunningServer) -> None:
    """There are more callers than slots and queue places: each gets all its audio or an immediate refusal. A connection
    has at most 64 calls at once, so there are two."""
    clients = [Client(server.url) for _ in range(2)]

    def call(number: int) -> int | float | None:
        """Return the number of samples received, or the seconds after which to retry."""
        try:
            return len(clients[number % 2].speak("Hello.", seed=number, max_audio_ms=400).audio)
        except Unavailable as error:
            return error.retry_after_s

    with ThreadPoolExecutor(120) as pool:
        results = list(pool.map(call, range(120)))
    for client in clients:
        client.close()
    refused = [seconds for seconds in results if seconds != 5 * FRAME_SAMPLES]
    assert all(seconds and seconds <= 30 for seconds in refused)
    assert 0 < len(refused) <= 120 - 72, "8 run and 64 wait"
