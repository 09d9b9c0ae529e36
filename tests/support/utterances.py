"""Eight numbered utterances on the random model, which any engine generates alone or at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from misotts.config import MASKED, ModelConfig
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Backbone, Depth, Limits
from misotts.engines.two_part import TwoPart
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.model.checkpoint import Checkpoint
from misotts.order import Order
from tests.support.scripted import Inbox

FRAMES = 24
PROMPTS = (5, 17, 300, 40, 129, 600, 8, 31)
"""Positions of each utterance's prompt."""
SAMPLING = ((0.9, 50), (0.0, 50), (0.7, 1), (2.0, 2048), (0.9, 3), (0.9, 50), (1.3, 200), (0.9, 50))
"""Temperature and top-k of each."""


@dataclass
class Parts:
    """The parts of an engine on the random model."""

    config: ModelConfig
    embedding: Embedding
    backbone: Backbone
    depth: Depth


def eager_parts(folder: Path) -> Parts:
    config = ModelConfig.load(folder)
    weights = Checkpoint(folder, config)
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


def speak(parts: Parts, numbers: Sequence[int], limits: Limits) -> list[np.ndarray]:
    return run(make_generator(parts, limits), parts, numbers)


def assert_same_frames(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    same = [np.array_equal(a, b) for a, b in zip(found, expected, strict=True)]
    assert all(same), f"utterances with other frames: {np.flatnonzero(np.logical_not(same))}"


def run(generator: Generator, parts: Parts, numbers: Sequence[int]) -> list[np.ndarray]:
    return generate(generator, [make_utterance(number, parts.config) for number in numbers])


def generate(generator: Generator, utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """Generate utterances that are submitted at once; return the codes [frames, codebooks] of each."""
    inboxes = [Inbox(generator) for _ in utterances]
    for utterance, inbox in zip(utterances, inboxes, strict=True):
        generator.submit(utterance, inbox)
    while generator.core.streams:
        generator.step()
        generator.deliver()
    generator.core.scheduler.check()
    assert generator.core.scheduler.pool.available == generator.core.scheduler.pool.capacity
    return [np.array(inbox.codes) for inbox in inboxes]
