"""The queues of the prompt stage, on a pretended Triton and with a codec that works when the test allows it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts.serve.stage.metrics import METRICS
from misotts.serve.stage.prompt import PromptStage
from misotts_client.errors import Cancelled, DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from misotts_gateway.tickets import Note
from tests.support.waiting import wait_until

FRAMES = 3


class Codec:
    """Encodes a clip in two parts, each when it is allowed to."""

    def __init__(self) -> None:
        self.clips = 0
        self._allowed = threading.Semaphore(0)

    def encode(self, audio: np.ndarray, pause: Callable[[], None]) -> np.ndarray:
        self.clips += 1
        assert self._allowed.acquire(timeout=20)
        pause()
        assert self._allowed.acquire(timeout=20)
        return np.ones((-(-len(audio) // FRAME_SAMPLES), 32), np.int32)

    def allow(self, parts: int = 1000) -> None:
        self._allowed.release(parts)


class Request(dict[str, Any]):
    """A request as Triton passes it; `answers` receives its responses."""

    def __init__(self, **fields: Any) -> None:
        values = {"TEXT": "Hello.", **fields}
        arrays = {name: np.array([v.encode()], object) if isinstance(v, str) else v for name, v in values.items()}
        super().__init__({name: SimpleNamespace(as_numpy=lambda v=v: np.atleast_1d(v)) for name, v in arrays.items()})
        self.answers: list[Any] = []

    def get_response_sender(self) -> list[Any]:
        return self.answers


def with_context(frames: int = FRAMES, **fields: Any) -> Request:
    samples = frames * FRAME_SAMPLES
    return Request(
        CONTEXT_TEXT="Before.",
        CONTEXT_SPEAKER=fields.pop("speaker", 0),
        CONTEXT_SAMPLES=samples,
        CONTEXT_AUDIO=np.zeros(samples, np.float32),
        **fields,
    )


@pytest.fixture
def codec() -> Codec:
    return Codec()


@pytest.fixture
def stage(codec: Codec, demo_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("misotts.serve.stage.prompt.MAX_ENCODING", 2)
    monkeypatch.setattr("misotts.serve.stage.prompt.send", lambda sender, outputs, final: sender.append(outputs))
    monkeypatch.setattr("misotts.serve.stage.stage.refuse", lambda sender, error: sender.append(error))
    stage: Any = PromptStage()
    stage.device = "cpu"
    stage.link = SimpleNamespace(malformed=0)
    stage.config = ModelConfig.load(demo_folder)
    stage.prompter = Prompter(demo_folder, stage.config, codec.encode, Voices(folder))
    stage.start_workers()
    yield stage
    codec.allow()
    wait_until(lambda: stage.metrics()["waiting"] == 0)


def answer(request: Request) -> Any:
    """Return the one answer to a request: an error, or the rows of the prompt."""
    wait_until(lambda: request.answers)
    (found,) = request.answers
    return found["FRAMES"] if isinstance(found, dict) else found


def counts(stage: Any, *names: str) -> tuple[float, ...]:
    metrics = stage.metrics()
    return tuple(metrics[name] for name in names)


def test_every_metric_is_reported(stage: Any) -> None:
    assert {*stage.metrics(), "malformed_messages_total"} == {metric.name for metric in METRICS["prompt"]}


def test_a_request_without_encoding_does_not_wait_for_one_with_encoding(stage: Any, codec: Codec) -> None:
    codec.allow(2)
    first_use = Request(VOICE="ann")
    stage.execute([first_use])
    voice = answer(first_use)

    long = with_context()
    stage.execute([long])
    wait_until(lambda: codec.clips == 2)
    plain, again = Request(), Request(VOICE="ann")
    wrong, unknown = with_context(speaker=100), with_context(VOICE="bob")
    stage.execute([plain, again, wrong, unknown])
    assert np.array_equal(answer(again), voice)
    assert 0 < len(answer(plain)) < len(voice)
    assert isinstance(answer(wrong), InvalidArgument)
    assert isinstance(answer(unknown), NotFound)
    assert not long.answers
    codec.allow()
    assert len(answer(long)) > len(answer(plain)) + FRAMES


def test_a_voice_of_many_requests_is_encoded_once(stage: Any, codec: Codec) -> None:
    requests = [Request(VOICE="ann") for _ in range(3)]
    stage.execute(requests[:1])
    wait_until(lambda: codec.clips == 1)  # the others are queued
    stage.execute(requests[1:])
    wait_until(lambda: stage.metrics()["encoding"] == 3)
    codec.allow()
    prompts = [answer(request) for request in requests]
    assert codec.clips == 1
    for prompt in prompts:
        np.testing.assert_array_equal(prompt, prompts[0])


def test_the_queue_of_the_encoder_is_in_order_and_bounded(stage: Any, codec: Codec) -> None:
    requests = [with_context(frames) for frames in (1, 2, 3, 4)]
    stage.execute(requests[:1])
    wait_until(lambda: codec.clips)
    stage.execute(requests[1:])
    error = answer(requests[3])
    assert isinstance(error, Unavailable)
    assert "contexts and new voices" in error.message
    assert error.retry_after_s == 1
    stage.execute([plain := Request()])
    answer(plain)
    assert not requests[0].answers
    assert counts(stage, "waiting", "encoding") == (3, 3), "the request that is being encoded counts too"
    codec.allow(2)
    answer(requests[0])
    assert not requests[1].answers
    codec.allow()
    lengths = [len(answer(request)) for request in requests[:3]]
    assert np.diff(lengths).tolist() == [1, 1]
    wait_until(lambda: counts(stage, "waiting", "encoding") == (0, 0))
    assert counts(stage, "prompts_total", "refused_total") == (4, 1)


def test_nothing_is_encoded_for_a_caller_that_has_left(stage: Any, codec: Codec) -> None:
    first, second, third = (with_context(TICKET=np.int64(ticket)) for ticket in (1, 2, 3))
    stage.execute([first])
    wait_until(lambda: codec.clips)  # it has left the queue, which holds two
    stage.execute([second, third])
    for ticket in (1, 2):
        stage.note(Note(ticket, 0, gone=True))
    stage.note(Note(3, 5, gone=False))
    codec.allow(1)
    assert isinstance(answer(first), Cancelled), "it is noticed between the parts of a clip"
    assert isinstance(answer(second), Cancelled)
    codec.allow(2)
    assert len(answer(third)) > FRAMES
    assert codec.clips == 2
    assert json.loads(third.answers[0]["ORDER"])["ticket"] == 3


def test_the_time_limit_holds_in_the_queue_and_during_encoding(stage: Any, codec: Codec) -> None:
    hurried, behind = (with_context(TIMEOUT_MS=200) for _ in range(2))
    stage.execute([hurried, behind])
    wait_until(lambda: codec.clips)
    time.sleep(0.2)
    codec.allow(1)
    assert isinstance(answer(hurried), DeadlineExceeded)
    assert isinstance(answer(behind), DeadlineExceeded)
    assert codec.clips == 1, "a request past its deadline is not encoded"


def test_a_voice_is_encoded_to_its_end_for_the_next_request(stage: Any, codec: Codec) -> None:
    hurried = with_context(VOICE="ann", TIMEOUT_MS=200)
    stage.execute([hurried])
    wait_until(lambda: codec.clips)
    time.sleep(0.2)
    codec.allow(2)
    assert isinstance(answer(hurried), DeadlineExceeded)
    stage.execute([next_one := Request(VOICE="ann")])
    assert len(answer(next_one)) > FRAMES
    assert codec.clips == 1


def test_a_worker_that_hangs_reports_no_progress_and_a_long_clip_does(stage: Any, codec: Codec) -> None:
    stage.execute([with_context()])
    wait_until(lambda: codec.clips)
    time.sleep(0.3)
    seen = stage.progress()
    time.sleep(0.3)
    assert stage.progress() == seen, "the checker is alive, which must not hide the encoder"
    codec.allow(1)
    wait_until(lambda: stage.progress() > seen)


def test_dropped_segments_are_counted(stage: Any, codec: Codec) -> None:
    codec.allow()
    stage.execute([request := with_context(frames=1_500, MAX_AUDIO_MS=np.int32(100_000))])
    assert len(answer(request)) < 20
    assert stage.metrics()["dropped_segments_total"] == 1
    assert codec.clips == 0
