"""The gateway refuses from the figures of `generate`, at once and no more than `generate` would."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misotts_client.errors import Unavailable
from misotts_gateway.admission import ON_ITS_WAY_S, STALE_S, Admission
from tests.support.admission import FREE, WAITS_S, figures


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def let_in(admission: Admission, requests: int, lead_ms: int | None = None) -> tuple[int, list[float]]:
    entered, told = 0, []
    for _ in range(requests):
        try:
            admission.enter(lead_ms)
            entered += 1
        except Unavailable as error:
            told.append(error.retry_after_s or 0.0)
    return entered, told


def test_a_burst_between_two_reports_gets_what_is_free_and_what_may_wait() -> None:
    admission = Admission(Clock())
    admission.hear(FREE)
    entered, told = let_in(admission, 80)
    assert entered == 2 + 4
    assert set(told) == {1.5}


def test_a_request_that_has_ended_no_longer_counts() -> None:
    admission = Admission(Clock())
    admission.hear(FREE)
    for _ in range(200):  # of a caller that an earlier stage refuses
        admission.leave(admission.enter(None))
    assert let_in(admission, 10)[0] == 6


def test_requests_on_their_way_are_counted_beside_the_figures() -> None:
    clock = Clock()
    admission = Admission(clock)
    admission.hear(FREE)
    assert let_in(admission, 3)[0] == 3
    clock.now += ON_ITS_WAY_S / 2
    admission.hear(figures([0.4, 0.9, 1.4, 1.9, 2.4]))
    assert let_in(admission, 2)[0] == 2, "one of three has come"
    clock.now += 2 * ON_ITS_WAY_S
    admission.hear(figures([1.9, 2.4]))
    assert let_in(admission, 10)[0] == 1, "the others never will"


def test_after_a_refusal_the_wait_must_become_much_shorter() -> None:
    """Then the delay told is not the small difference of two long times."""
    admission = Admission(Clock())
    for waits_s, entered, told in [([1.9, 2.1], 1, 1.1), ([1.9], 0, 0.9), ([1.1], 0, 0.1), ([0.9, 1.9], 2, 0.0)]:
        admission.hear(figures(waits_s))
        admission._let_in.clear()
        found = let_in(admission, 2)
        assert found[0] == entered
        assert found[1] == pytest.approx([told] * (2 - entered))


def test_batch_work_is_refused_from_its_own_figures() -> None:
    """What was let in comes before it, but only listeners before a listener."""
    admission = Admission(Clock())
    admission.hear(FREE)
    assert let_in(admission, 1)[0] == 1
    entered, told = let_in(admission, 5, lead_ms=0)
    assert (entered, set(told)) == (2, {1.5})
    assert let_in(admission, 80, lead_ms=1)[0] == 5, "a refusal of batch work is none of listeners"
    admission = Admission(Clock())
    admission.hear({**FREE, "lead_s": 0.0})
    assert let_in(admission, 80)[0] == 3, "without LEAD_MS a request is batch work where the server's lead is 0"
    assert let_in(admission, 80, lead_ms=500)[0] == 6


def test_without_figures_everything_enters() -> None:
    clock = Clock()
    admission = Admission(clock)
    assert let_in(admission, 500)[0] == 500
    admission.hear(figures([9.0]))
    assert let_in(admission, 5)[0] == 0
    clock.now += STALE_S + 0.1
    assert let_in(admission, 500)[0] == 500


@settings(max_examples=50, deadline=None)
@given(places=st.integers(0, 100), requests=st.integers(0, 150))
def test_the_queue_is_never_overfilled(places: int, requests: int) -> None:
    admission = Admission(Clock())
    admission.hear(figures([0.0], places=places))
    entered, told = let_in(admission, requests)
    assert entered == min(places, requests)
    assert set(told) <= {FREE["slot_s"]}


@pytest.mark.parametrize(
    "wrong", [{}, figures(WAITS_S, places="many"), figures(None), figures([]), {**FREE, "batch": 1}]
)
def test_figures_without_sense_change_nothing(wrong: dict[str, Any]) -> None:
    admission = Admission(Clock())
    with pytest.raises((KeyError, ValueError, TypeError)):
        admission.hear(wrong)
    assert let_in(admission, 10)[0] == 10
