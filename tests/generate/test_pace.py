"""Sizes of chunks: no caller runs out of audio because of a chunk's size, and chunks are as large as possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misotts.config import MAX_CHUNK_FRAMES
from misotts.generate.pace import FULL_FRAMES, HELD_SHARE, LEAD_S, MANY_STREAMS, Pace
from misotts.hold_back import GRADUAL, HoldBack

FRAME_S = 0.08
SURE = 1e-9
"""Seconds by which sums in another order may differ."""
AT_FIRST = st.builds(HoldBack, st.integers(0, 6))
"""As many frames from the first one on."""


def send(
    steps: list[float], kept: HoldBack = HoldBack(), running: int = 1, chunk_frames: int = 0, delay_s: float = 0.0
) -> list[tuple[float, int]]:
    """Add frames after `steps` seconds each; return the chunks' times and sizes. The last is sent with the end."""
    pace, now, pending, chunks = Pace(chunk_frames, kept, 0.0), 0.0, 0, []
    for step in steps:
        now += step
        pending += 1
        if pace.full(pending, running, delay_s, now):
            chunks.append((now, pending))
            pending = 0
    return [*chunks, (now, pending)] if pending else chunks


def starved(chunks: list[tuple[float, int]], kept: HoldBack) -> float:
    """Return the seconds of silence for a caller that plays each chunk when it arrives."""
    sent, dry, total = 0, 0.0, 0.0
    for now, frames in chunks:
        sent += frames
        heard = kept.gone(sent) - kept.gone(sent - frames)
        if heard:
            total += max(now - dry, 0) if dry else 0
            dry = max(dry, now) + heard * FRAME_S
    return total


@given(step=st.floats(0.0005, 0.079), kept=AT_FIRST, frames=st.integers(1, 300))
def test_audio_never_runs_out_while_generation_is_faster_than_playback(
    step: float, kept: HoldBack, frames: int
) -> None:
    assert starved(send([step] * frames, kept), kept) <= SURE


@given(step=st.floats(0.0005, 0.053), most=st.integers(0, 6), frames=st.integers(1, 300), chunk=st.integers(0, 2))
def test_audio_does_not_run_out_while_the_hold_back_grows(step: float, most: int, frames: int, chunk: int) -> None:
    kept = HoldBack(most, GRADUAL)
    assert starved(send([step] * frames, kept, chunk_frames=chunk), kept) <= SURE


@given(
    base=st.floats(0.001, 0.15),
    late=st.lists(st.floats(0, LEAD_S - 0.001), min_size=1, max_size=120),
    kept=AT_FIRST,
)
def test_gaps_are_no_longer_than_with_chunks_of_one_frame(base: float, late: list[float], kept: HoldBack) -> None:
    """Holds for any frame times of which none is `LEAD_S` longer than the one before."""
    steps = [base + each for each in late]
    alone = [(sum(steps[: n + 1]), 1) for n in range(len(steps))]
    assert starved(send(steps, kept), kept) <= starved(alone, kept) + SURE


@given(steps=st.lists(st.floats(0, 0.3), max_size=200), running=st.integers(0, 5000), kept=AT_FIRST)
def test_no_frame_is_lost_and_no_chunk_exceeds_the_contract(steps: list[float], running: int, kept: HoldBack) -> None:
    chunks = send(steps, kept, running)
    assert sum(frames for _, frames in chunks) == len(steps)
    assert all(frames <= MAX_CHUNK_FRAMES for _, frames in chunks[1:])


def test_a_fast_engine_soon_makes_full_chunks() -> None:
    sizes = [frames for _, frames in send([0.004] * 129)]
    assert sizes == [1, 1, 1, 8, 20, *[MAX_CHUNK_FRAMES] * 3, 23]


def test_a_slow_engine_makes_small_chunks_until_the_caller_has_enough_audio() -> None:
    sizes = [frames for _, frames in send([0.06] * 100)]
    assert sizes[:8] == [1] * 8
    assert FULL_FRAMES in sizes


def test_after_a_stall_chunks_become_full_again() -> None:
    sizes = [frames for _, frames in send([0.02] * 10 + [3.0] + [0.02] * 40)]
    assert sizes[-2] >= FULL_FRAMES


@given(
    steps=st.lists(st.floats(0.001, 0.12), min_size=20, max_size=300),
    running=st.integers(0, MANY_STREAMS - 1),
    kept=AT_FIRST,
)
def test_frames_are_not_held_back_for_longer_than_a_share_of_what_the_caller_has(
    steps: list[float], running: int, kept: HoldBack
) -> None:
    chunks = send(steps, kept, running)
    sent, played_out = 0, 0.0
    for number, (now, frames) in enumerate(chunks):
        # Before its last frame came, the chunk was not yet as long as it might be.
        if number and frames - 1 > FULL_FRAMES:
            before = now - max(steps)
            assert before - chunks[number - 1][0] <= HELD_SHARE * (played_out - before) + SURE
        sent += frames
        heard = kept.gone(sent) - kept.gone(sent - frames)
        played_out = max(played_out, now) + heard * FRAME_S


def test_a_caller_at_its_lead_gets_the_longest_chunks() -> None:
    sizes = [frames for _, frames in send([0.01] * 150 + [FRAME_S] * 300)]
    assert set(sizes[-10:-1]) == {MAX_CHUNK_FRAMES}


def test_the_first_chunk_has_the_frames_that_the_later_stages_hold_back() -> None:
    assert [frames for _, frames in send([0.01] * 8, HoldBack(5))] == [6, 1, 1]
    assert [frames for _, frames in send([0.01] * 9, HoldBack(5, GRADUAL))] == [1, 1, 2, 4, 1]


def test_a_first_chunk_is_about_as_if_all_were_held_back_while_the_server_is_slow() -> None:
    pace = Pace(0, HoldBack(5, GRADUAL), 0.0)
    assert [pace.full(frames, 1, 0.0, 0.01 * frames, slow=True) for frames in range(1, 6)] == [False] * 4 + [True]


@pytest.mark.parametrize(("delay_s", "least"), [(0.0, 1), (0.1, 1), (0.3, 2), (9.0, MAX_CHUNK_FRAMES)])
def test_a_chunk_plays_for_as_long_as_the_next_one_takes(delay_s: float, least: int) -> None:
    sizes = [frames for _, frames in send([0.02] * 200, delay_s=delay_s)]
    assert sizes[0] == least
    assert min(sizes[:-1]) >= least


def test_many_running_streams_make_every_chunk_longer() -> None:
    sizes = [frames for _, frames in send([0.07] * 300, HoldBack(1), running=2 * MANY_STREAMS)]
    assert sizes[0] == 1 + 3
    assert min(sizes[1:-1]) == 3


@pytest.mark.parametrize("chunk_frames", [1, 4, 25])
def test_the_order_may_set_the_size(chunk_frames: int) -> None:
    sizes = [frames for _, frames in send([0.03] * 51, HoldBack(5), chunk_frames=chunk_frames)]
    assert set(sizes[:-1]) == {chunk_frames}
