"""A few seconds of load on the tests' server: the figures are those of the calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.capacity import measure as measure_costs
from benchmarks.capacity.calibrate import see
from benchmarks.load.compare import read
from benchmarks.load.measure import Target, measure
from benchmarks.load.openai import OpenAiServer
from benchmarks.load.page import write_page
from benchmarks.load.plan import Load, calls
from benchmarks.load.server_share import OTHERS
from benchmarks.record import record, write
from benchmarks.sweep import knee
from benchmarks.sweep.knee import Objective
from benchmarks.sweep.measure import Sweep, on_server, sweep
from misotts.serve.local import RunningServer
from misotts.serve.settings import GATEWAY, STAGES

LOAD = Load(
    streams=None,
    rate=3.0,
    arrivals="poisson",
    seconds=3.0,
    chars=20,
    max_ms_per_char=40.0,
    voices=("ann",),
    voice_share=0.4,
    cancel_share=0.3,
    slow_share=0.2,
    chunk_frames=0,
    seed=2,
)


def test_an_open_loop_reports_every_planned_call(server: RunningServer, tmp_path: Path) -> None:
    planned = list(calls(LOAD))
    assert {call.listener for call in planned} == {"listens", "cancels", "slow"}
    seen = []
    result = measure(LOAD, Target.of(server), lambda run: seen.append(run.under_way))
    assert max(seen) > 0
    overall = result["overall"]
    assert overall["errors"] == {}
    assert overall["calls"] == overall["heard_to_the_end"] + overall["hung_up"] == len(planned)
    for call, found in zip(planned, result["calls"], strict=True):
        assert (found["number"], found["due_s"]) == (call.number, round(call.at_s or 0, 4))
        assert found["audio_s"] == found["asked_s"] or found["listener"] == "cancels"
        assert found["ttfa_ms"] > 0
    assert overall["ttfa_ms"]["p50"] <= overall["ttfa_ms"]["p95"] <= overall["ttfa_ms"]["max"]
    assert all(0 < result["stages"][stage]["busy_share"] < 1 for stage in STAGES)
    used = {each["process"]: each for each in result["processes"]}
    assert used.keys() == {"launcher", GATEWAY, "tritonserver", *STAGES, "load generator", OTHERS}
    assert used["generate"]["cpu_s"] > 0 < used["generate"]["memory_mib"]
    kept = read(write(tmp_path / "result.json", record(result)))
    assert kept["overall"] == overall
    assert "watermark" in write_page(tmp_path / "result.html", ("the tests' load", kept)).read_text()


def test_a_closed_loop_has_at_most_as_many_calls_as_streams(server: RunningServer) -> None:
    result = measure(
        replace(LOAD, rate=None, streams=2, seconds=1.0, slow_share=0.0), Target.of(server), lambda run: None
    )
    spans = [(call["due_s"], call["ended_s"]) for call in result["calls"]]
    assert len(spans) > 2
    assert result["overall"]["errors"] == {}
    assert max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans) <= 2


def test_a_sweep_finds_the_knee(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knee, "MOST_STEPS", 2)
    plan = Sweep(Objective(60_000, 0.0), Load(rate=2.0, seconds=0.5, arrivals="constant"), repeats=2, precision=0.5)
    result = sweep(plan, on_server(Target.of(server), lambda run: None), lambda point: None)
    assert result["knee"] == {"holds": 4.0, "misses": None}
    assert [point["rate"] for point in result["points"]] == [2.0, 4.0]
    assert all(point["errors"] == {} and point["other_cores"] is not None for point in result["points"])


def test_closed_loops_measure_the_stages_in_the_server(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_costs, "MESSAGES", 5)
    (seen,) = see(Target.of(server), callers=(1,), seconds=1.0)
    assert seen.busy_ms.keys() == {"generate", "decode", "watermark"}
    assert all(ms > 1 for ms in seen.busy_ms.values())
    hop_ms, send_ms = measure_costs.measure_messages(server.url)
    assert send_ms > 0
    assert 0 < hop_ms < seen.ttfa_ms


def test_refused_calls_are_counted_by_code(server: RunningServer) -> None:
    load = replace(LOAD, voices=("unknown",), voice_share=1.0, seconds=0.5, arrivals="constant")
    overall = measure(load, Target.of(server), lambda run: None)["overall"]
    assert overall["errors"] == {"NOT_FOUND": overall["calls"]}
    assert overall["continuity"] == 0
    assert overall["ttfa_ms"]["p50"] is None


def test_the_same_load_by_openais_http(server: RunningServer) -> None:
    http = OpenAiServer(f"http://127.0.0.1:{server.ports.http}", body={"max_audio_ms": 1600})
    load = Load(seconds=1.0, rate=2.0, arrivals="constant", chars=10)
    result = measure(load, replace(Target.of(server), http=http), lambda run: None)
    overall = result["overall"]
    assert overall["errors"] == {}
    assert overall["calls"] == len(list(calls(load)))
    assert overall["ttfa_ms"]["p50"] <= overall["audible_ttfa_ms"]["p50"]
    assert {call["audio_s"] for call in result["calls"]} == {1.6}
