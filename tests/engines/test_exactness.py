"""The same seed gives the same frames, to the bit, in any batch (float32 on the CPU)."""

from pathlib import Path

import numpy as np
import pytest

from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.interface import Limits
from misotts.model.checkpoint import Checkpoint
from tests.support.crowd import FRAMES, PROMPTS, Parts, make_generator, run, speak


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(), id="all at once"),
        pytest.param(Limits(step_positions=37), id="small prefill chunks"),
        pytest.param(Limits(max_streams=3, step_positions=100), id="three slots"),
    ],
)
def test_other_utterances_change_no_frame(parts: Parts, alone: list[np.ndarray], limits: Limits) -> None:
    together = speak(parts, range(len(PROMPTS)), limits)
    assert [len(frames) for frames in together] == [FRAMES] * len(PROMPTS)
    assert [np.array_equal(a, b) for a, b in zip(alone, together, strict=True)] == [True] * len(PROMPTS)


def test_equal_requests_get_equal_frames_and_others_do_not(parts: Parts, alone: list[np.ndarray]) -> None:
    first, second, other = speak(parts, [0, 0, 6], Limits())
    assert np.array_equal(first, second)
    assert np.array_equal(first, alone[0])
    assert not np.array_equal(first, other)


def test_shared_prefixes_change_no_frame(parts: Parts, alone: list[np.ndarray]) -> None:
    generator = make_generator(parts, Limits(step_positions=150))
    run(generator, parts, range(len(PROMPTS)))
    assert not generator.core.scheduler.pool.shared
    again = run(generator, parts, range(len(PROMPTS)))
    assert generator.core.scheduler.pool.shared == sum((length - 1) // 32 for length in PROMPTS)
    assert [np.array_equal(a, b) for a, b in zip(alone, again, strict=True)] == [True] * len(PROMPTS)


def test_preemption_changes_no_frame(parts: Parts, alone: list[np.ndarray], demo_folder: Path) -> None:
    weights = Checkpoint(demo_folder, parts.config)
    tight = TorchBackbone(weights, parts.config, num_blocks=4)  # 3 blocks of 32; both utterances grow to 2
    generator = make_generator(Parts(parts.config, parts.embedding, tight, parts.depth), Limits())
    numbers = [1, 7]
    together = run(generator, parts, numbers)
    assert generator.core.scheduler.preempted
    assert [np.array_equal(alone[n], frames) for n, frames in zip(numbers, together, strict=True)] == [True, True]
