"""OpenAI's clients for Python and for Node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from misotts.serve.local import RunningServer
from tests.support.clients import EXAMPLES, Ran, assert_alike, run_file
from tests.support.decoded import decode, resampled
from tests.support.gateway import RunningGateway
from tests.support.http import audio_of
from tests.support.waiting import wait_until

TEXT = "Good morning, how are you today?"
SAMPLING = {"seed": 7, "temperature": 0.5, "top_k": 20}
LANGUAGES = {"openai": "openai_python.py", "node": "openai_node.mjs"}


@pytest.fixture(scope="module", params=LANGUAGES)
def ran(request: pytest.FixtureRequest, run: Callable[..., Ran]) -> Ran:
    return run(request.param, LANGUAGES[request.param], TEXT)


def test_the_audio_is_that_of_grpc(
    ran: Ran, assert_heard: Callable[..., None], spoken: Callable[..., np.ndarray]
) -> None:
    for name in ("whole", "streamed", "retried"):
        assert_heard(ran.pcm(name), TEXT, **SAMPLING)
    wanted = spoken(TEXT, **SAMPLING)
    for file in ran.folder.glob("whole.*"):
        decoded, rate = decode(file.suffix[1:], 24_000, file.read_bytes())
        assert_alike(decoded, resampled(wanted.astype(np.float32) / 32_767, rate))


def test_events_have_the_same_audio(ran: Ran, assert_heard: Callable[..., None]) -> None:
    if "events" not in ran.found:
        pytest.skip("the client for Node has no way to read events")
    *deltas, done = ran.found["events"]
    assert done["type"] == "speech.audio.done"
    assert_heard(np.frombuffer(audio_of(deltas), "<i2"), TEXT, **SAMPLING)
    assert ran.found["pcm ignored"] == "instructions"
    assert ran.found["arrivals"] > 2


def test_errors_have_openais_classes(ran: Ran) -> None:
    assert ran.found["errors"] == {
        "voice": ["NotFoundError", 404, "voice", True],
        "speed": ["BadRequestError", 400, "speed", True],
        "input": ["BadRequestError", 400, "input", True],
        "key": ["AuthenticationError", 401, None, True],
    }
    assert ran.found["refused"] == ["RateLimitError", 429, None, True]
    assert ran.found.get("retries", 1) >= 1


def test_nothing_runs_after_interruptions(ran: Ran, server: RunningServer) -> None:
    wait_until(lambda: not server.metrics()["misotts_gateway_streams"], 5)


@pytest.mark.parametrize(("environment", "file"), [("openai", "openai_python.py"), ("node", "openai_node.mjs")])
def test_the_example(environment: str, file: str, gateway: RunningGateway, assert_heard: Callable[..., None]) -> None:
    printed = run_file(gateway, environment, EXAMPLES / file)
    assert_heard(np.frombuffer(printed, "<i2"), "Good morning. How are you today?")
