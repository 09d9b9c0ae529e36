"""Flow control: leads over playback, audio that was not taken, and which streams pause for others."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misotts.engines.interface import Limits
from misotts.generate.flow import FlowOptions
from misotts.generate.pace import LEAST_AHEAD_S
from misotts.generate.stream import UNTAKEN_FRAMES, Chunk
from misotts.generate.utterance import Utterance
from tests.support.scripted import ScriptedStage, numbered, utterance

FRAME_S = 0.08
LIMITS = Limits(max_streams=4, max_waiting=8, step_positions=16)


@dataclass
class Caller:
    """Plays chunks as they come, and writes down when; a gateway tells what it takes."""

    stage: ScriptedStage
    spoken: Utterance
    takes: bool = True
    finish: str = ""
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def chunk(self, chunk: Chunk) -> None:
        self.stage.core.acknowledge(chunk.stream, chunk.index)
        self.finish = chunk.finish
        if len(chunk.frames):
            self.arrivals.append((self.stage.now, len(chunk.frames)))
        if self.takes:
            self.take()

    def take(self) -> None:
        self.stage.core.take(self.spoken.order.ticket, sum(frames for _, frames in self.arrivals))

    def refuse(self, error: Exception) -> None:
        raise error

    def replay(self) -> tuple[float, float]:
        """Play the arrivals one by one; return the seconds played until now, and the seconds of silence."""
        dry_at, played, silent = self.arrivals[0][0] if self.arrivals else 0.0, 0.0, 0.0
        for at, frames in self.arrivals:
            silent += max(at - dry_at, 0.0)
            dry_at = max(dry_at, at) + frames * FRAME_S
            played += frames * FRAME_S
        return played - max(dry_at - self.stage.now, 0.0), silent

    def lead_s(self) -> float:
        return self.spoken.sampled * FRAME_S - self.replay()[0]


def submit(stage: ScriptedStage, seed: int, frames: int = 60, takes: bool = True, **fields: Any) -> Caller:
    caller = Caller(stage, utterance(seed, max_frames=frames, ticket=seed, **fields), takes)
    stage.core.submit(caller.spoken, caller, stage.now)
    return caller


def run(stage: ScriptedStage, seconds: float, step_s: float = 0.01) -> None:
    end = stage.now + seconds
    while stage.now < end:
        stage.step()
        stage.now += step_s


@settings(max_examples=25, deadline=None)
@given(
    step_s=st.floats(0.01, 0.1),
    leads=st.lists(st.integers(1, 4000), min_size=1, max_size=4),
    chunk_frames=st.sampled_from([0, 1, 5]),
)
def test_a_lead_is_kept_and_no_audio_is_missed_for_it(step_s: float, leads: list[int], chunk_frames: int) -> None:
    stage = ScriptedStage(numbered, LIMITS)
    least_s = max(chunk_frames, 1) * FRAME_S + LEAST_AHEAD_S
    callers = [submit(stage, n, lead_ms=ms, chunk_frames=chunk_frames) for n, ms in enumerate(leads, 1)]
    while not all(caller.finish for caller in callers):
        run(stage, step_s, step_s)
        assert stage.now < 60 * (FRAME_S + step_s) + 1
        for caller, lead_ms in zip(callers, leads, strict=True):
            assert caller.lead_s() <= max(lead_ms / 1000, least_s) + FRAME_S + 1e-6
    if step_s < 0.07 and chunk_frames != 5:  # faster than playback, and chunks are no longer than what is left
        assert [caller.replay()[1] for caller in callers] == pytest.approx([0.0] * len(callers), abs=1e-6)


def test_the_servers_lead_holds_where_the_request_names_none() -> None:
    stage = ScriptedStage(numbered, LIMITS, options=FlowOptions(lead_s=1.0))
    own, servers, batch = submit(stage, 1, lead_ms=2000), submit(stage, 2), submit(stage, 3, lead_ms=0)
    run(stage, 1.0)
    assert own.lead_s() == pytest.approx(2.0, abs=2 * FRAME_S)
    assert servers.lead_s() == pytest.approx(1.0, abs=2 * FRAME_S)
    assert batch.finish


def test_leads_do_not_count_while_an_utterance_waits_for_a_slot() -> None:
    stage = ScriptedStage(numbered, Limits(max_streams=1, max_waiting=8, step_positions=16))
    first = submit(stage, 1, lead_ms=500)
    run(stage, 0.3)
    assert not first.finish
    second = submit(stage, 2, frames=5)
    run(stage, 1.0)
    assert first.finish
    assert second.finish


def test_a_deadline_that_playback_would_miss_lifts_the_lead() -> None:
    stage = ScriptedStage(numbered, LIMITS)
    hurried = submit(stage, 1, lead_ms=500, deadline=3.0)
    patient = submit(stage, 2, lead_ms=500, deadline=6.0)
    run(stage, 2.0)
    assert (hurried.finish, patient.finish) == ("length", "")


@settings(max_examples=5, deadline=None)
@given(takes=st.lists(st.integers(0, 60), min_size=1, max_size=8), lead_ms=st.sampled_from([None, 0, 3000]))
def test_untaken_audio_is_bounded_whatever_the_lead(takes: list[int], lead_ms: int | None) -> None:
    stage = ScriptedStage(numbered, LIMITS, max_positions=600)
    slow = submit(stage, 1, frames=500, takes=False, lead_ms=lead_ms)
    quick = submit(stage, 2, frames=60, lead_ms=0)
    taken = 0
    for more in takes:
        run(stage, 2.0, 0.02)
        assert slow.spoken.sampled - taken <= UNTAKEN_FRAMES
        taken = min(taken + more, sum(frames for _, frames in slow.arrivals))
        stage.core.take(1, taken)
        stage.core.take(1, 0)  # datagrams may come late
    assert quick.finish
    slow.takes = True
    slow.take()
    run(stage, 60.0, 0.02)
    assert slow.finish == "length"


def test_batch_work_pauses_while_a_listener_runs_out() -> None:
    """The engine needs 60 ms for every frame: two streams are too many."""
    stage = ScriptedStage(numbered, LIMITS)
    batch, listener = submit(stage, 1, lead_ms=0), submit(stage, 2)
    while not listener.finish:
        steps = len(stage.steps)
        stage.step()
        sampled = sum(int(step.samples.sum()) for step in stage.steps[steps:])
        stage.now += 0.06 * sampled
    late = max(at - listener.arrivals[0][0] - n * FRAME_S for n, (at, _) in enumerate(listener.arrivals))
    assert late <= 3 * FRAME_S
    assert 0 < batch.spoken.sampled < 30


def test_a_listener_with_spare_audio_yields() -> None:
    stage = ScriptedStage(numbered, LIMITS)
    rich = submit(stage, 1, lead_ms=3000)
    run(stage, 1.0)
    poor = submit(stage, 2)
    made = rich.spoken.sampled
    while poor.spoken.sampled < 3:
        stage.step()
        stage.now += 0.09
    assert rich.spoken.sampled <= made + 3
    assert not rich.finish


def test_a_caller_may_be_gone_before_its_utterance_comes() -> None:
    stage = ScriptedStage(numbered, LIMITS)
    stage.core.take(7, 0, gone=True)
    with pytest.raises(Exception, match="the caller left"):
        submit(stage, 7)
    gone = submit(stage, 8)
    run(stage, 0.1)
    stage.core.take(8, 1, gone=True)
    run(stage, 0.1)
    assert gone.finish == "error: CANCELLED: the caller left"
    assert not stage.core.streams
