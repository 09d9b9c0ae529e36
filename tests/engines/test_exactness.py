"""The same seed gives the same frames, to the bit, whatever else is in the batch (float32 on the CPU)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from misotts.config import MASKED, ModelConfig
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Limits
from misotts.engines.two_part import TwoPart
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.model.checkpoint import Checkpoint
from misotts.order import Order
from tests.support.scripted import Inbox

FRAMES = 24
PROMPTS = (5, 17, 300, 40, 129, 600, 8, 31)
SAMPLING = ((0.9, 50), (0.0, 50), (0.7, 1), (2.0, 2048), (0.9, 3), (0.9, 50), (1.3, 200), (0.9, 50))


@dataclass
class Parts:
    config: ModelConfig
    embedding: Embedding
    backbone: TorchBackbone
    depth: TorchDepth


@pytest.fixture(scope="module")
def parts(demo_folder: Path) -> Parts:
    config = ModelConfig.load(demo_folder)
    weights = Checkpoint(demo_folder, config)
    embedding = Embedding(weights, config)
    backbone = TorchBackbone(weights, config, num_blocks=200)
    return Parts(config, embedding, backbone, TorchDepth(weights, config, embedding))


def make_utterance(number: int, config: ModelConfig) -> Utterance:
    random = np.random.default_rng(number)
    length = PROMPTS[number]
    prompt = np.full((length, config.frame_columns), MASKED, np.int32)
    prompt[:, -1] = random.integers(0, config.text_vocab_size, length)
    audio = random.random(length) < 0.3
    prompt[audio, :-1] = random.integers(0, config.audio_codes, (audio.sum(), config.audio_num_codebooks))
    prompt[audio, -1] = MASKED
    temperature, top_k = SAMPLING[number]
    return Utterance(Order(prompt, FRAMES, seed=number, temperature=temperature, top_k=top_k))


def make_generator(parts: Parts, limits: Limits) -> Generator:
    engine = TwoPart(parts.config, parts.embedding, parts.backbone, parts.depth, limits.max_streams)
    return Generator(parts.config, engine, limits)


def speak(parts: Parts, numbers: range | list[int], limits: Limits) -> list[np.ndarray]:
    """Frames [frames, codebooks] of each of the numbered utterances, all submitted at once."""
    return run(make_generator(parts, limits), parts, numbers)


def run(generator: Generator, parts: Parts, numbers: range | list[int]) -> list[np.ndarray]:
    inboxes = []
    for number in numbers:
        inboxes.append(Inbox(generator))
        generator.submit(make_utterance(number, parts.config), inboxes[-1])
    while generator.core.streams:
        generator.step()
        generator.deliver()
    generator.core.scheduler.check()
    assert generator.core.scheduler.pool.available == generator.core.scheduler.pool.capacity
    return [np.array(inbox.codes) for inbox in inboxes]


@pytest.fixture(scope="module")
def alone(parts: Parts) -> list[np.ndarray]:
    return [speak(parts, [number], Limits())[0] for number in range(len(PROMPTS))]


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(), id="all at once"),
        pytest.param(Limits(step_positions=37), id="prompts in small pieces"),
        pytest.param(Limits(max_streams=3, step_positions=100), id="three seats"),
    ],
)
def test_a_crowd_changes_no_frame(parts: Parts, alone: list[np.ndarray], limits: Limits) -> None:
    crowd = speak(parts, range(len(PROMPTS)), limits)
    assert [len(frames) for frames in crowd] == [FRAMES] * len(PROMPTS)
    assert [np.array_equal(a, b) for a, b in zip(alone, crowd, strict=True)] == [True] * len(PROMPTS)


def test_twins_speak_alike_and_strangers_do_not(parts: Parts, alone: list[np.ndarray]) -> None:
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
    crowd = run(generator, parts, numbers)
    assert generator.core.scheduler.preempted
    assert [np.array_equal(alone[n], frames) for n, frames in zip(numbers, crowd, strict=True)] == [True, True]
