"""The generate loop's thread on a scripted engine."""

import pytest

from misotts.generate.loop import Generator
from misotts_client.errors import Unavailable
from tests.support.scripted import CONFIG, LIMITS, Inbox, Script, numbered, scripted_engine, utterance
from tests.support.waiting import wait_until


def start(script: Script) -> Generator:
    generator = Generator(CONFIG, scripted_engine(script), LIMITS)
    generator.start()
    return generator


def test_a_failing_engine_ends_every_stream_and_is_reported() -> None:
    def fails(seed: int, frame: int) -> list[int]:
        if frame == 2:
            raise RuntimeError("the engine is gone")
        return numbered(seed, frame)

    generator = start(fails)
    inboxes = [Inbox(generator) for _ in range(2)]
    for seed, inbox in enumerate(inboxes, start=1):
        generator.submit(utterance(seed, chunk_frames=1), inbox)
    wait_until(lambda: all(inbox.finish for inbox in inboxes))
    assert [inbox.finish for inbox in inboxes] == ["error: INTERNAL: the generate stage failed"] * 2
    assert isinstance(generator.failure, RuntimeError)
    for _ in range(2):
        with pytest.raises(Unavailable, match="stage failed"):
            generator.submit(utterance(seed=2), Inbox(generator))
    generator.close()


def test_close_ends_every_stream_and_refuses_new_ones() -> None:
    generator = start(numbered)
    inbox = Inbox(generator)
    generator.submit(utterance(seed=1, max_frames=50, chunk_frames=1), inbox)
    wait_until(lambda: inbox.chunks)
    generator.close()
    assert inbox.finish in ("error: UNAVAILABLE: the server is shutting down", "length")
    with pytest.raises(Unavailable, match="shutting down"):
        generator.submit(utterance(seed=2), Inbox(generator))
