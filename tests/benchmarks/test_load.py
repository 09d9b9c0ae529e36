"""The load generator: the calls, the simulated playback, the checks of the answers, the reports."""

import asyncio
import io
import math
import re
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.load import compare, page, report, server_share
from benchmarks.load.caller import Answer, AnswerCheck, make
from benchmarks.load.drive import Run
from benchmarks.load.plan import MAX_CHARS, MIN_CHARS, Call, Load, calls
from benchmarks.load.playback import Arrival, buffered, gaps, play
from benchmarks.load.report import progress, show_result
from benchmarks.load.server_share import Snapshot
from benchmarks.load.summary import invalid, overall, percentiles, summarise
from benchmarks.record import write
from misotts.cli.main import app
from misotts.config import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE
from misotts.serve.local import RunningServer, free_ports
from misotts.serve.settings import Ports
from misotts_client import Chunk, SpeechRequest, Unavailable

FRAME_S = FRAME_MS / 1000

# Times in whole milliseconds, as far as the simulation is asked to tell them apart.
arrivals = st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 25)), min_size=1, max_size=30).map(
    lambda steps: [
        Arrival(at / 1000, frames * FRAME_SAMPLES)
        for at, frames in zip(np.cumsum([wait for wait, _ in steps]), (frames for _, frames in steps), strict=True)
    ]
)


def silent_ms(chunks: list[Arrival]) -> int:
    """Return the silent milliseconds within the utterance for a player that checks its buffer every millisecond."""
    coming: Counter[int] = Counter()
    for each in chunks:
        coming[round(each.at_s * 1000)] += each.samples * 1000 // SAMPLE_RATE
    silent = buffer = 0
    for now in range(min(coming), max(coming)):
        buffer += coming[now]
        silent += buffer == 0
        buffer = max(buffer - 1, 0)
    return silent


@given(arrivals)
def test_playback_is_that_of_a_plain_player(chunks: list[Arrival]) -> None:
    assert play(chunks).underrun_s == pytest.approx(silent_ms(chunks) / 1000, abs=1e-5)


@given(arrivals)
def test_the_buffer_holds_what_has_come_and_is_not_played(chunks: list[Arrival]) -> None:
    times, levels = buffered(chunks)
    assert (levels >= -1e-5).all()
    assert (np.diff(times) >= 0).all()
    np.testing.assert_allclose(levels[1::2] - levels[0::2], [chunk.samples / SAMPLE_RATE for chunk in chunks])


def test_playback_of_a_known_case() -> None:
    chunks = [Arrival(1.0, FRAME_SAMPLES), Arrival(1.05, FRAME_SAMPLES), Arrival(1.4, FRAME_SAMPLES)]
    playback = play(chunks)
    assert (playback.underrun_s, playback.stalls, playback.longest_s) == pytest.approx((0.24, 1, 0.24))
    assert gaps(chunks) == pytest.approx([0.05, 0.35])
    assert play([]).stalls == 0
    assert buffered([])[0].size == 0


@given(st.lists(st.floats(0, 1e3), max_size=50), st.integers(0, 50))
def test_percentiles_are_values_that_came_and_failures_are_the_worst(values: list[float], failed: int) -> None:
    found = percentiles(values, failed)
    ranked = [*sorted(values), *[None] * failed]
    for point in (50, 90, 95, 99):
        assert found[f"p{point}"] == (ranked[math.ceil(len(ranked) * point / 100) - 1] if ranked else None)
    assert found["max"] == (ranked[-1] if ranked else None)


SHARES: dict[str, Any] = dict(voices=("ann", "bob"), voice_share=0.5, cancel_share=0.2, slow_share=0.1)
LOAD = Load(seconds=200.0, rate=5.0, seed=3, **SHARES)


def test_a_load_has_its_lengths_shares_and_arrivals() -> None:
    made = list(calls(LOAD))
    assert made == list(calls(LOAD))
    assert made != list(calls(replace(LOAD, seed=4)))
    lengths = [len(call.request.text) for call in made]
    assert min(lengths) >= MIN_CHARS - 1
    assert max(lengths) <= MAX_CHARS
    assert np.median(lengths) == pytest.approx(60, abs=5)
    assert len(made) == pytest.approx(1000, abs=100)
    waits = np.diff([call.at_s or 0.0 for call in made])
    assert (waits.mean(), waits.std()) == pytest.approx((0.2, 0.2), abs=0.02)
    listeners = [call.listener for call in made]
    assert listeners.count("cancels") / len(made) == pytest.approx(0.2, abs=0.04)
    assert listeners.count("slow") / len(made) == pytest.approx(0.1, abs=0.03)
    assert sum(call.request.voice is None for call in made) / len(made) == pytest.approx(0.5, abs=0.05)
    assert {call.request.voice for call in made} == {None, "ann", "bob"}


def test_rates_shares_and_loops_do_not_change_the_texts() -> None:
    def texts(load: Load) -> list[tuple[str, int | None]]:
        return [(call.request.text, call.request.seed) for call in islice(calls(load), 50)]

    assert texts(LOAD) == texts(replace(LOAD, rate=50.0, arrivals="constant")) == texts(replace(LOAD, cancel_share=0.0))
    assert texts(LOAD) == texts(replace(LOAD, rate=None, streams=4))


def test_constant_arrivals() -> None:
    times = [call.at_s for call in calls(replace(LOAD, arrivals="constant", seconds=1.0))]
    assert times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_poisson_arrivals_come_at_their_rate_from_the_first_on() -> None:
    counts = [len(list(calls(Load(seconds=2.0, rate=1.0, seed=seed)))) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(2, abs=0.2)
    assert np.var(counts) == pytest.approx(2, abs=0.4)


def test_calls_of_the_warm_up_are_made_and_do_not_count() -> None:
    load = Load(seconds=4.0, warm_up_s=2.0, rate=1.0, arrivals="constant")
    answers = []
    for call in calls(load):
        at_s = call.at_s or 0.0
        late_s = 1.0 if at_s < 2 else 0.25
        answers.append(Answer(call, at_s, at_s, [Arrival(at_s + late_s, SAMPLE_RATE)], finish="eos"))
    assert [answer.due_s for answer in answers] == [0, 1, 2, 3, 4, 5]
    figures = overall(answers, load.seconds, load.warm_up_s)
    assert (figures["calls"], figures["ttfa_ms"]["max"]) == (4, 250)
    assert figures["audio_s_per_s"] == 5 / 4  # the second call's audio comes at 2 s


REQUEST = SpeechRequest("Hello.", seed=7, max_audio_ms=3 * FRAME_MS, chunk_frames=1)


def chunk(frame: int, finish: str = "", level: float = 0.1, samples: int = FRAME_SAMPLES, seed: int = 7) -> Chunk:
    return Chunk(np.full(samples, level, np.float32), frame, seed, finish)


RIGHT = [chunk(0), chunk(1), chunk(2, "length")]


@pytest.mark.parametrize(
    ("chunks", "fault"),
    [
        (RIGHT, ""),
        ([chunk(0), chunk(1, "eos")], ""),
        ([chunk(0), chunk(1, "length")], "WRONG_LENGTH"),
        ([chunk(0), chunk(1), chunk(2), chunk(3, "eos")], "WRONG_LENGTH"),
        ([chunk(0), chunk(1, "eos", samples=100)], "WRONG_LENGTH"),
        ([chunk(0, "eos", samples=0)], "WRONG_LENGTH"),
        ([chunk(0), chunk(2, "eos")], "WRONG_FRAME"),
        ([chunk(1), chunk(2, "eos")], "WRONG_FRAME"),
        ([chunk(0, level=0), chunk(1, "eos", level=0)], "SILENT"),
        ([chunk(0, level=0.002), chunk(1, "eos", level=0.002)], "SILENT"),  # -54 dB, and no sample above -50 dB
        ([chunk(0, level=math.nan), chunk(1, "eos")], "NOT_AUDIO"),
        ([chunk(0, level=2.0), chunk(1, "eos")], "NOT_AUDIO"),
        ([chunk(0, seed=8), chunk(1, "eos")], "WRONG_SEED"),
    ],
)
def test_faults_of_an_answer(chunks: list[Chunk], fault: str) -> None:
    heard = AnswerCheck(REQUEST)
    for each in chunks:
        heard.add(each)
    heard.end()
    assert heard.fault == fault


class Scripted:
    """A client with streams that yield a script: chunks, or an error."""

    def __init__(self, *script: Chunk | Exception) -> None:
        self.script = script
        self.taken = 0

    @asynccontextmanager
    async def stream(self, request: SpeechRequest) -> AsyncIterator[AsyncIterator[Chunk]]:
        yield self._chunks()

    async def _chunks(self) -> AsyncIterator[Chunk]:
        for each in self.script:
            self.taken += 1
            if isinstance(each, Exception):
                raise each
            yield each


def answer_of(client: Scripted, call: Call) -> Answer:
    ticks: Iterator[int] = count(2)
    return asyncio.run(make(call, client, lambda: next(ticks)))  # type: ignore[arg-type]


LISTENS = Call(0, 0.0, REQUEST, "listens", math.inf)


def test_time_to_first_audio_runs_from_when_the_call_was_due() -> None:
    answer = answer_of(Scripted(*RIGHT), LISTENS)
    assert (answer.sent_s, answer.ttfa_s, answer.ended_s) == (2, 3, 6)
    assert answer.rtf == pytest.approx(6 / (3 * FRAME_S))


def test_a_chunk_without_samples_is_not_first_audio() -> None:
    answer = answer_of(Scripted(chunk(0, samples=0), *RIGHT), replace(LISTENS, at_s=None))
    assert (answer.ttfa_s, len(answer.arrivals)) == (1, 3)


def test_the_first_audible_sample_is_heard_after_the_silence_and_the_gaps_before_it() -> None:
    quiet = Chunk(np.full(FRAME_SAMPLES, 0.003, np.float32), 0, REQUEST.seed or 0, "")
    loud = replace(chunk(1, "length"), audio=np.full(FRAME_SAMPLES, -0.004, np.float32))
    answer = answer_of(Scripted(quiet, loud), replace(LISTENS, request=replace(REQUEST, max_audio_ms=2 * FRAME_MS)))
    assert answer.leading_silence_s == pytest.approx(FRAME_S)
    # The chunks come at 3 and 4 s, and the call was due at 0 s.
    assert answer.ttfa_s == 3
    assert answer.audible_ttfa_s == pytest.approx(4)
    figures = overall([answer], 10.0)
    assert (figures["audible_ttfa_ms"]["p50"], figures["leading_silence_ms"]["p50"]) == (4000, 80)
    assert overall([replace(answer, leading_silence_s=None)], 10.0)["audible_ttfa_ms"]["p50"] is None


WRONG = ([chunk(0), chunk(2, "eos")], [chunk(0), Unavailable("gone")], [Unavailable("full")])


@pytest.mark.parametrize("script", WRONG)
def test_a_wrong_or_missing_answer_is_never_a_fast_one(script: list[Chunk | Exception]) -> None:
    wrong, right = answer_of(Scripted(*script), LISTENS), answer_of(Scripted(*RIGHT), LISTENS)
    assert (wrong.ttfa_s, wrong.rtf) == (None, None)
    figures = overall([wrong, right], 10.0)
    assert figures["ttfa_ms"]["p50"] == 3000
    assert figures["ttfa_ms"]["p90"] is figures["underrun_s"]["p90"] is figures["rtf"]["p90"] is None
    assert figures["errors"] == {wrong.error: 1}
    assert figures["continuity"] == 0  # the right one came a frame a second
    assert figures["audio_s_per_s"] == pytest.approx(3 * FRAME_S / 10)


def test_a_caller_hangs_up_within_the_audio() -> None:
    answer = answer_of(client := Scripted(*RIGHT), Call(0, 0.0, REQUEST, "cancels", 1.5 * FRAME_S))
    assert (client.taken, answer.finish, answer.error) == (2, "", "")
    figures = overall([answer], 10.0)
    assert (figures["hung_up"], figures["heard_to_the_end"]) == (1, 0)
    assert figures["rtf"]["p50"] is None


def test_a_late_or_busy_generator_makes_the_run_invalid() -> None:
    assert invalid(Run(seconds=10, cpu_s=1, lags_s=[0.001] * 100)) == []
    assert "lag" in invalid(Run(seconds=10, cpu_s=1, lags_s=[0.001] * 50 + [0.03] * 2))[0]
    assert "core" in invalid(Run(seconds=10, cpu_s=8, lags_s=[0.001] * 100))[0]
    assert "unknown" in invalid(Run(seconds=10))[0]


def result_of(load: Load, *answers: Answer) -> dict[str, Any]:
    run = Run(answers=list(answers), seconds=10, lags_s=[0.001] * 100)
    machine = {"cpu": "a <fast> one", "cores": 2}
    head = {"date": "2026-11-23", "command": "bench", "machine": machine, "stages": None}
    return {**head, "processes": [], "load": asdict(load), **summarise(run, load)}


Results = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture
def two_results() -> Results:
    right, failed = (answer_of(Scripted(*script), LISTENS) for script in (RIGHT, [Unavailable("full")]))
    return result_of(LOAD, right, right), result_of(replace(LOAD, rate=9.0), right, failed, failed)


def test_a_page_needs_nothing_else(tmp_path: Path, two_results: Results) -> None:
    one, two = two_results
    text = page.write_page(tmp_path / "new" / "page.html", ("before & after", one), ("after", two)).read_text()
    assert "before &amp; after" in text
    assert "a &lt;fast&gt; one" in text
    assert text.count("<svg") == 6
    assert not re.search(r"""<(script|link|img|iframe)|@import|src=|(href|url)\W*(?!#)https?:""", text)


def test_two_results_side_by_side(two_results: Results) -> None:
    rows = {row.name: row for row in compare.rows(*two_results)}
    assert rows["calls"] == compare.Row("calls", "2", "3", "+50%")
    assert rows["failed"].second == "2 UNAVAILABLE"
    assert rows["time to first audio, ms, p50"] == compare.Row("time to first audio, ms, p50", "3,000", "failed")
    assert compare.differences(*two_results) == ["rate: 5.0 and 9.0"]


def test_the_terminal_shows_the_result(two_results: Results) -> None:
    spent = {"busy_share": 0.25, "busy_ms_per_audio_s": 2.0, "mean_batch": 1.0}
    result = {**two_results[1], "watermarks_checked": 3, "stages": {"generate": spent, "watermark": spent}}
    console = Console(file=io.StringIO(), width=200)
    show_result({**result, "why_invalid": ["late"]}, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("checked in 3 answers", "watermark                busy 25%", "UNAVAILABLE: full", "NOT VALID"):
        assert printed.count(words) == 1


def test_a_server_that_dies_under_load_leaves_the_calls_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_share, "PUBLISH_S", 0.0)
    closed = f"http://127.0.0.1:{free_ports(1)[0]}/metrics"
    server = RunningServer(subprocess.Popen(["sleep", "60"], text=True), Ports(1, 2, 3))
    before = server_share.snapshot(closed, server)
    assert [each.name for each in before.usage] == ["launcher"]
    server.process.kill()
    server.process.wait()
    after = server_share.snapshot(closed, server)
    assert server_share.stages(before, after, 1.0, 1.0) is None
    assert server_share.processes(before, after, 1.0, 0.1) == []


def test_a_gateway_alone_leaves_the_calls_figures() -> None:
    """Its metrics hold nothing of the stages: see docs/gateway.md."""
    before, after = (Snapshot({"misotts_gateway_calls_total": calls}, [], 0.0) for calls in (1.0, 5.0))
    assert server_share.stages(before, after, 1.0, 1.0) is None


def test_a_percentile_without_values_is_not_called_failed(tmp_path: Path) -> None:
    result = result_of(LOAD, answer_of(Scripted(*RIGHT), Call(0, 2.0, REQUEST, "cancels", 0.5 * FRAME_S)))
    p95s = [report.percentile(result["overall"], key, "p95") for key in ("ttfa_ms", "gap_ms", "rtf")]
    assert p95s == ["1,000", "-", "-"]
    assert {row.name: row.first for row in compare.rows(result, result)}["real-time factor, p95"] == "-"
    assert "<td>failed</td>" not in page.write_page(tmp_path / "page.html", ("hung up", result)).read_text()
    failed = result_of(LOAD, answer_of(Scripted(Unavailable("full")), LISTENS))
    assert [report.percentile(failed["overall"], key, "p95") for key in ("rtf", "gap_ms")] == ["failed", "-"]
    assert "<td>failed</td>" in page.write_page(tmp_path / "page.html", ("all failed", failed)).read_text()


def test_the_three_times_stand_beside_each_other(tmp_path: Path) -> None:
    answer = answer_of(Scripted(chunk(0, level=0), chunk(1, "eos")), LISTENS)
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with progress(1.0, console) as show:
        show(Run(answers=[answer]))
    assert "medians in ms: first audio 3000, audible 4000, silence 80" in console.file.getvalue()  # type: ignore[attr-defined]
    text = page.write_page(tmp_path / "page.html", ("one", result_of(LOAD, answer))).read_text()
    for figure, name in (("3,000", "ms to first audio"), ("4,000", "ms to the first audible sample")):
        assert f"<b>{figure}</b><span>{name}, p50" in text
    assert "<b>80</b><span>ms of leading silence, p50" in text


def test_the_progress_begins_anew_with_every_run() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress(0.02, console) as show:
        show(Run())
        time.sleep(0.05)
        second = Run()
        console.file = io.StringIO()
        show(second)
        assert "\u2501" * 40 not in console.file.getvalue().split("load")[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--streams"),
        (["--streams=1", "--rate=1"], "--streams"),
        (["--rate=nan"], "--rate"),
        (["--rate=1", "--cancel-share=0.7", "--slow-share=0.4"], "must be at most 1, got 1.1"),
        (["--rate=1", "--voice=ann"], "--voices"),
        (["--rate=1", "--voices=v", "--url=h:1"], "--voices"),
        (["--rate=1", "--watermark-key-file=k"], "--watermark-key-file"),
        (["--rate=1", "--output=found.html"], ".json"),
        (["--rate=1", "--output=/proc/none/found.json"], "cannot write"),
    ],
)
def test_wrong_options_of_load_are_refused_before_a_server_starts(options: list[str], words: str) -> None:
    found = CliRunner().invoke(app, ["bench", "load", *options], env={"COLUMNS": "300"})
    assert found.exit_code == 2
    assert words in found.output


def test_compare_writes_no_page_over_a_result(tmp_path: Path, two_results: Results) -> None:
    path = write(tmp_path / "one.json", two_results[0])
    command = ["bench", "compare", str(path), str(path)]
    assert CliRunner().invoke(app, [*command, f"-o{path}"]).exit_code == 2
    assert compare.read(path)["overall"] == two_results[0]["overall"]
    assert CliRunner().invoke(app, [*command, f"-o{tmp_path / 'page.html'}"]).exit_code == 0
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON"])
def test_compare_refuses_a_file_that_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        compare.read(tmp_path / "other.json")
