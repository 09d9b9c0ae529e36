"""The figures of a run, overall and for each call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.load.caller import Answer
from benchmarks.load.drive import Run
from benchmarks.load.plan import Load
from benchmarks.load.playback import gaps, play
from misotts.config import SAMPLE_RATE

POINTS = (50, 90, 95, 99)
MAX_LAG_S = 0.020
"""A run is not valid if its event loop was later than this in one of a hundred wake-ups: it measures its generator."""
MAX_CPU_SHARE = 0.7
"""A run is not valid if its generator was busy for more of the time than this: one event loop uses one core."""


def percentiles(values: Iterable[float], failed: int = 0) -> dict[str, float | None]:
    """Return p50 to p99 and max, by nearest rank.

    `failed` calls have no value and count as worse than all others; a percentile that falls among them is None.
    """
    known = np.sort(np.fromiter(values, float))
    count = len(known) + failed

    def at(rank: int) -> float | None:
        return float(known[rank - 1]) if 0 < rank <= len(known) else None

    # In whole numbers: 0.95 * 20 is 19.000000000000004 in floats.
    return {**{f"p{point}": at(-(-point * count // 100)) for point in POINTS}, "max": at(count)}


def summarise(run: Run, load: Load) -> dict[str, Any]:
    """Return the figures of a load's run."""
    faults = invalid(run)
    return {
        "valid": not faults,
        "why_invalid": faults,
        "overall": overall(run.answers, load.seconds, load.warm_up_s),
        "generator": {
            "loop_lag_ms": _scaled(percentiles(run.lags_s), 1000),
            "cpu_share": round(run.cpu_s / run.seconds, 3),
        },
        "calls": [one_call(answer) for answer in run.answers],
    }


def overall(answers: Sequence[Answer], seconds: float, warm_up_s: float = 0.0) -> dict[str, Any]:
    """Return the figures of the calls that were due in `seconds` after `warm_up_s`, together.

    Gaps and playback leave out slow callers, because their chunks wait for them; the real-time factor leaves out
    callers that hang up too. A failed call has no gaps and counts as the worst in everything else.
    """
    # Only audio that came while those calls were being made: a few late callers must not dilute the rate.
    arrivals = [arrival for answer in answers if not answer.error for arrival in answer.arrivals]
    samples = sum(arrival.samples for arrival in arrivals if warm_up_s <= arrival.at_s <= warm_up_s + seconds)
    answers = [answer for answer in answers if answer.due_s >= warm_up_s]
    paced = [answer for answer in answers if answer.call.listener != "slow"]
    whole = [answer for answer in paced if answer.call.listener == "listens" or answer.error]
    good = [answer for answer in paced if not answer.error]
    played = [play(answer.arrivals) for answer in good]
    right = [answer for answer in answers if not answer.error]
    audible = [answer.audible_ttfa_s for answer in right if answer.audible_ttfa_s is not None]
    silences = [answer.leading_silence_s for answer in right if answer.leading_silence_s is not None]
    return {
        "calls": len(answers),
        "heard_to_the_end": sum(1 for answer in answers if answer.finish and not answer.error),
        "hung_up": sum(1 for answer in answers if not answer.finish and not answer.error),
        "errors": dict(Counter(answer.error for answer in answers if answer.error)),
        "audio_s_per_s": round(samples / SAMPLE_RATE / seconds, 3),
        "sent_late_ms": _scaled(percentiles(answer.sent_s - answer.due_s for answer in answers), 1000),
        "ttfa_ms": _scaled(_with_failed(answer.ttfa_s for answer in answers), 1000),
        "audible_ttfa_ms": _scaled(percentiles(audible, len(answers) - len(right)), 1000),
        "leading_silence_ms": _scaled(percentiles(silences), 1000),
        "rtf": _scaled(_with_failed(answer.rtf for answer in whole), 1),
        "gap_ms": _scaled(percentiles(gap for answer in good for gap in gaps(answer.arrivals)), 1000),
        "underrun_s": _scaled(percentiles((each.underrun_s for each in played), len(paced) - len(good)), 1),
        "continuity": round(sum(not each.stalls for each in played) / len(paced), 5) if paced else None,
    }


def pooled(runs: Sequence[Sequence[Answer]], seconds: float, warm_up_s: float = 0.0) -> dict[str, Any]:
    """Return the figures of several runs together, each with calls for `seconds` after `warm_up_s`."""
    figures = overall([answer for answers in runs for answer in answers], seconds, warm_up_s)
    return {**figures, "audio_s_per_s": round(figures["audio_s_per_s"] / len(runs), 3)}


def one_call(answer: Answer) -> dict[str, Any]:
    """Return one call's figures; points in time are seconds since the start of the run."""
    call = answer.call
    playback = play(answer.arrivals) if call.listener != "slow" and not answer.error else None
    return {
        "number": call.number,
        "listener": call.listener,
        "voice": call.request.voice,
        "chars": len(call.request.text),
        "seed": call.request.seed,
        "asked_s": (call.request.max_audio_ms or 0) / 1000,
        "due_s": round(answer.due_s, 4),
        "sent_late_ms": _rounded(answer.sent_s - answer.due_s, 1000),
        "ended_s": round(answer.ended_s, 4),
        "finish": answer.finish,
        "error": answer.error,
        "words": answer.words,
        "ttfa_ms": _rounded(answer.ttfa_s, 1000),
        "audible_ttfa_ms": _rounded(answer.audible_ttfa_s, 1000),
        "leading_silence_ms": _rounded(answer.leading_silence_s, 1000),
        "rtf": _rounded(answer.rtf, 1),
        "audio_s": round(answer.audio_s, 2),
        "underrun_s": _rounded(playback.underrun_s, 1) if playback else None,
        "stalls": playback.stalls if playback else None,
        "longest_stall_s": _rounded(playback.longest_s, 1) if playback else None,
        "chunk_at_s": [round(arrival.at_s, 4) for arrival in answer.arrivals],
        "chunk_samples": [arrival.samples for arrival in answer.arrivals],
    }


def invalid(run: Run) -> list[str]:
    """Return why the run's times may be the generator's own; nothing if it kept up."""
    faults = []
    lag_s = percentiles(run.lags_s)["p99"]
    if lag_s is None or lag_s > MAX_LAG_S:
        found = "unknown" if lag_s is None else f"{lag_s * 1000:.0f} ms"
        faults.append(f"event-loop lag p99 is {found}, the limit is {MAX_LAG_S * 1000:.0f} ms")
    if run.cpu_s > MAX_CPU_SHARE * run.seconds:
        faults.append(f"the generator used {run.cpu_s / run.seconds:.0%} of a core, the limit is {MAX_CPU_SHARE:.0%}")
    return faults


def _with_failed(values: Iterable[float | None]) -> dict[str, float | None]:
    """Return percentiles in which a call without a value counts as failed."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return percentiles(known, len(listed) - len(known))


def _scaled(figures: dict[str, float | None], factor: float) -> dict[str, float | None]:
    return {name: _rounded(value, factor) for name, value in figures.items()}


def _rounded(value: float | None, factor: float) -> float | None:
    """Round milliseconds to a tenth, seconds and ratios to four places."""
    return None if value is None else round(value * factor, 1 if factor > 1 else 4)
