"""WebSockets in front of the whole server: barge-in, again and again, in one conversation."""

import random
import time
import uuid
from collections.abc import Callable

from misotts.serve.local import RunningServer
from misotts_client import Client
from tests.support.waiting import wait_until
from tests.support.ws import CARTESIA, joined, talking, turn


def test_a_turn_right_after_a_cancel(server: RunningServer, client: Client, busy_streams: Callable[[], int]) -> None:
    """The case turn-after-cancel: no turn is refused because the one before is still there."""
    session, chance = uuid.uuid4().hex, random.Random(21)
    with talking(server.ports.http, f"{CARTESIA}?x-misotts-session={session}") as talker:
        for index in range(6):
            id = f"heard-{index}"
            talker.send(turn("A long story that nobody hears to its end.", id))
            while (each := talker.next(30))["type"] != "chunk" or each["context_id"] != id:
                pass  # chunks of the turn before may still come
            time.sleep(0.1)  # at least a frame of 80 ms is heard
            talker.send({"context_id": id, "cancel": True})
        assert client.speak("Yes.", session=session, max_audio_ms=80).session_turns == 6
        for index in range(194):
            talker.send(turn("Another one.", f"cut-{index}"))
            time.sleep(chance.random() * 0.05)
            talker.send({"context_id": f"cut-{index}", "cancel": True})
        talker.send(turn("The last.", "last", add_timestamps=True))
        talker.until(lambda each: each["context_id"] == "last" and each["done"], 60)
    assert not [each for each in talker.got if each["type"] == "error"]
    for index in range(200):
        id = f"heard-{index}" if index < 6 else f"cut-{index - 6}"
        mine = [each for each in talker.got if each["context_id"] == id]
        assert [each["done"] for each in mine] == [False] * (len(mine) - 1) + [True]
    last = [each for each in talker.got if each["context_id"] == "last"]
    assert len(joined(last, "data")) > 2 * 24_000
    words = [word for each in last if each["type"] == "timestamps" for word in each["word_timestamps"]["words"]]
    assert words == ["The", "last."]
    wait_until(lambda: busy_streams() == 0, 20)
