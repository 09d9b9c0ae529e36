"""The agents of examples/: a turn, an interruption, the next turn of the same conversation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from misotts.serve.local import free_ports
from tests.support.clients import EXAMPLES, Ran
from tests.support.decoded import decode, resampled

FIRST = "Good morning."
LONG = "This is a long answer that is interrupted before it has come to its end, which is far away."


@pytest.mark.parametrize("name", ["pipecat_agent.py", "livekit_agent.py"])
def test_an_agent_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


def test_the_pipecat_agent(
    run: Callable[..., Ran], assert_heard: Callable[..., None], spoken: Callable[..., np.ndarray]
) -> None:
    ran = run_agent(run, "pipecat_agent.py", "Transcripts", FIRST, LONG)
    heard, after = (np.frombuffer((ran.folder / name).read_bytes(), "<i2") for name in ("first", "next"))
    assert_heard(heard, f"You said: {FIRST}")
    assert_in_conversation(after, spoken(f"You said: {FIRST}"))


def test_the_telephone_agent(run: Callable[..., Ran], spoken: Callable[..., np.ndarray]) -> None:
    ran = run_agent(run, "twilio_agent.py", "Twilio", "5", "6")
    heard, _ = decode("mulaw", 8_000, (ran.folder / "first").read_bytes())
    wanted = resampled(spoken("You pressed the key 5.").astype(np.float32) / 32_767, 8_000)
    assert np.corrcoef(heard[: len(wanted)], wanted[: len(heard)])[0, 1] > 0.95
    assert len((ran.folder / "next").read_bytes()) > 0


def assert_in_conversation(heard: np.ndarray, alone: np.ndarray) -> None:
    """Assert that a turn was spoken in the conversation: the likeliest codes of the same text alone are others."""
    assert len(heard) > 0
    both = min(len(heard), len(alone))
    assert not np.array_equal(heard[-both:], alone[-both:])


def run_agent(run: Callable[..., Ran], agent: str, wire: str, first: str, long: str) -> Ran:
    (port,) = free_ports(1)
    return run("pipecat", "pipecat_turns.py", EXAMPLES / agent, wire, first, long, PORT=str(port))


def test_the_livekit_agent(
    run: Callable[..., Ran], assert_heard: Callable[..., None], spoken: Callable[..., np.ndarray]
) -> None:
    ran = run("livekit", "livekit_turns.py", EXAMPLES / "livekit_agent.py", FIRST, LONG)
    assert_heard(ran.pcm("first"), f"You said: {FIRST} ")
    assert ran.found["interrupted"]
    assert_heard(ran.pcm("next"), f"You said: {FIRST} ", later=True)
    assert_in_conversation(ran.pcm("next"), spoken(f"You said: {FIRST} "))
    assert ran.found["history"][-1] == ["assistant", f"You said: {FIRST}"]
