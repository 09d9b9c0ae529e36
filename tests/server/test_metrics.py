"""The metrics of a running server."""

from __future__ import annotations

import re
import time
import urllib.request

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES
from misotts.serve.local import RunningServer
from misotts.serve.stage.metrics import METRICS
from misotts_client import Client, NotFound, Segment

PUBLISHED_S = 1.2


def test_counts_follow_the_requests(client: Client, server: RunningServer) -> None:
    time.sleep(PUBLISHED_S)
    before = server.metrics()
    for _ in range(2):
        client.speak("Hello from Miso, which says the same text twice so that its blocks are shared.", max_audio_ms=800)
    with pytest.raises(NotFound):
        client.speak("Hello.", voice="unknown")
    time.sleep(PUBLISHED_S)
    change = {name: value - before.get(name, 0) for name, value in server.metrics().items()}
    assert change["misotts_prompt_prompts_total"] == 2
    assert change["misotts_prompt_refused_total"] == 1
    assert change["misotts_generate_submitted_total"] == 2
    assert change["misotts_generate_finished_length_total"] == 2
    assert change["misotts_generate_frames_total"] == 20
    assert change["misotts_generate_prefix_blocks_shared_total"] >= 1
    assert change["misotts_generate_first_frame_seconds_count"] == 2
    assert 0 < change["misotts_generate_busy_seconds_total"] < 10
    assert change["misotts_watermark_chunks_total"] >= 4
    assert server.metrics()["misotts_generate_blocks_used"] == 0


def test_context_segments_that_do_not_fit_are_counted(client: Client, server: RunningServer) -> None:
    time.sleep(PUBLISHED_S)
    before = server.metrics()
    context = [Segment("Too long.", 0, np.zeros(2_040 * FRAME_SAMPLES, np.float32))]
    client.speak("Hello.", context=context, max_audio_ms=800)
    time.sleep(PUBLISHED_S)
    after = server.metrics()
    assert after["misotts_prompt_dropped_segments_total"] - before["misotts_prompt_dropped_segments_total"] == 1
    assert after["misotts_prompt_encoding"] == after["misotts_prompt_waiting"] == 0
    assert after["misotts_prompt_encoding_seconds_total"] <= after["misotts_prompt_busy_seconds_total"]


def test_the_server_publishes_the_table_of_metrics(server: RunningServer) -> None:
    with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
        text = response.read().decode()
    table = {f"misotts_{stage}_{metric.name}": metric for stage in METRICS for metric in METRICS[stage]}
    stages = "|".join(METRICS)  # the gateway's own are beside them
    kinds = dict(re.findall(rf"^# TYPE (misotts_(?:{stages})_\w+) (\w+)$", text, re.MULTILINE))
    assert kinds == {name: metric.kind for name, metric in table.items()}
    descriptions = dict(re.findall(rf"^# HELP (misotts_(?:{stages})_\w+) (.+)$", text, re.MULTILINE))
    assert descriptions == {name: metric.description for name, metric in table.items()}
