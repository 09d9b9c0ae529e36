"""The same seed gives the same frames, to the bit, in any batch (float32 on the CPU), on the eager engine and on the
compiled one; both give the same frames."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from misotts.engines.compiled.engine import CompiledBackbone, CompiledDepth
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.interface import Limits
from misotts.model.checkpoint import Checkpoint
from tests.support.utterances import FRAMES, PROMPTS, Parts, assert_same_frames, make_generator, run, speak


@pytest.fixture(scope="module", params=["eager", "compiled"])
def engine(request: pytest.FixtureRequest, parts: Parts, demo_folder: Path) -> Parts:
    if request.param == "eager":
        return parts
    weights = Checkpoint(demo_folder, parts.config)
    backbone = CompiledBackbone(weights, parts.config, num_blocks=200)
    return replace(parts, backbone=backbone, depth=CompiledDepth(weights, parts.config, parts.embedding))


@pytest.mark.parametrize(
    "limits",
    [Limits(), Limits(step_positions=37), Limits(max_streams=3, step_positions=100)],
    ids=["all at once", "small prefill chunks", "three slots"],
)
def test_other_utterances_change_no_frame(engine: Parts, alone: list[np.ndarray], limits: Limits) -> None:
    together = speak(engine, range(len(PROMPTS)), limits)
    assert [len(frames) for frames in together] == [FRAMES] * len(PROMPTS)
    assert_same_frames(together, alone)


def test_equal_requests_get_equal_frames_and_others_do_not(engine: Parts, alone: list[np.ndarray]) -> None:
    first, second, other = speak(engine, [0, 0, 6], Limits())
    assert np.array_equal(first, second)
    assert np.array_equal(first, alone[0])
    assert not np.array_equal(first, other)


def test_shared_prefixes_change_no_frame(engine: Parts, alone: list[np.ndarray]) -> None:
    generator = make_generator(engine, Limits(step_positions=150))
    run(generator, engine, range(len(PROMPTS)))
    assert not generator.core.scheduler.pool.shared
    again = run(generator, engine, range(len(PROMPTS)))
    assert generator.core.scheduler.pool.shared == sum((length - 1) // 32 for length in PROMPTS)
    assert_same_frames(again, alone)


def test_preemption_changes_no_frame(engine: Parts, alone: list[np.ndarray], demo_folder: Path) -> None:
    library = CompiledBackbone if isinstance(engine.backbone, CompiledBackbone) else TorchBackbone
    # 3 blocks of 32; both utterances grow to 2
    tight = library(Checkpoint(demo_folder, engine.config), engine.config, num_blocks=4)
    generator = make_generator(replace(engine, backbone=tight), Limits())
    assert_same_frames(run(generator, engine, [1, 7]), [alone[1], alone[7]])
    assert generator.core.scheduler.preempted
