"""Flow control on the real server: leads, batch work and callers that leave."""

import time
from collections.abc import Callable

from misotts.serve.local import RunningServer
from misotts_client import Client
from misotts_client.speech import Recording
from tests.support.waiting import wait_until

AUDIO_MS = 4_000


def test_a_listener_gets_its_audio_at_the_pace_of_playback(client: Client) -> None:
    recording, times = Recording(), []
    with client.stream("A listener plays this.", max_audio_ms=AUDIO_MS, lead_ms=1000) as stream:
        for chunk in stream:
            recording.add(chunk)
            times.append(time.monotonic())
    assert recording.speech().audio_s == AUDIO_MS / 1000
    # The watermark's delay and a chunk count as lead too.
    assert times[-1] - times[0] >= AUDIO_MS / 1000 - 1.0 - 0.7


def test_a_caller_that_leaves_is_gone_soon(
    server: RunningServer, client: Client, busy_streams: Callable[[], int]
) -> None:
    before = server.metrics()
    cancelled, malformed = (f"misotts_generate_{name}_total" for name in ("finished_cancelled", "malformed_messages"))
    with client.stream("This caller leaves.", max_audio_ms=60_000) as stream:
        next(stream)
    wait_until(lambda: busy_streams() == 0)
    wait_until(lambda: server.metrics()[cancelled] == before[cancelled] + 1)
    assert server.metrics()[malformed] == before[malformed]


def test_speech_ends_at_the_length_of_its_text(server: RunningServer, client: Client) -> None:
    """The random model never ends by itself."""
    before = server.metrics()["misotts_generate_runaway_total"]
    spoken = client.speak("Short.")
    assert (spoken.audio_s, spoken.finish) == (6.0, "length")
    wait_until(lambda: server.metrics()["misotts_generate_runaway_total"] == before + 1)
