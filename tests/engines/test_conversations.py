"""The frames of a turn are those of a request without SESSION that has the same rows and seed (float32 on the CPU)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from misotts.config import FRAME_MS, MASKED, ModelConfig
from misotts.engines.compiled.engine import CompiledBackbone, CompiledDepth
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.interface import Limits
from misotts.engines.two_part import TwoPart
from misotts.generate.flow import FlowOptions
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.model.checkpoint import Checkpoint
from misotts.order import Order
from tests.support.models import config_with
from tests.support.scripted import Inbox
from tests.support.utterances import Parts, assert_same_frames, generate, make_generator

WINDOW = 170
"""Positions; the turns of a test do not fit."""
LIMITS = Limits(max_streams=3, step_positions=100)


@dataclass
class Turn:
    """A turn that has been sent. The caller leaves when it has `leaves_at` frames; None: it stays."""

    utterance: Utterance
    inbox: Inbox
    own: np.ndarray
    expected: np.ndarray
    leaves_at: int | None

    @property
    def frames(self) -> np.ndarray:
        return np.array(self.inbox.codes) if self.inbox.chunks else np.zeros((0, self.own.shape[1] - 1), np.int64)


@dataclass
class Talk:
    """A conversation as its caller knows it: the prompts are worked out a second time, in other words."""

    name: str
    random: np.random.Generator
    config: ModelConfig
    longest: int = 14
    """Frames of the longest turn."""
    said: list[np.ndarray] = field(default_factory=list)
    """Rows of the turns that are closed."""
    last: Turn | None = None
    sent: list[Turn] = field(default_factory=list)

    def rows(self, texts: int, frames: int) -> np.ndarray:
        """Return random rows of a text and of audio."""
        rows = np.full((texts + frames, self.config.frame_columns), MASKED, np.int32)
        rows[:texts, -1] = self.random.integers(0, self.config.text_vocab_size, texts)
        rows[texts:, :-1] = self.random.integers(1, self.config.audio_codes, (frames, rows.shape[1] - 1))
        return rows

    def speak(self, generator: Generator) -> None:
        """Send a turn, which may say how much of the last one was heard."""
        draw = self.random.integers
        voice = self.rows(5, 40) if not self.sent or draw(6) == 0 else self.sent[-1].expected[:45]
        own = np.concatenate([self.rows(draw(1, 6), draw(0, 25)), self.rows(draw(2, 12), 0)])
        came = len(self.last.frames) if self.last else 0  # more cannot have been heard
        heard_ms = int(draw(FRAME_MS * (came + 1))) if draw(3) == 0 else None
        max_frames = int(draw(self.longest // 2, self.longest))
        before = fitting([*self.said, *self.heard(heard_ms)], WINDOW - max_frames - len(voice) - len(own))
        order = Order(
            np.concatenate([voice, own]),
            max_frames,
            seed=int(draw(2**40)),
            chunk_frames=int(draw(1, 4)),
            session=self.name,
            heard_ms=heard_ms,
            voice=len(voice),
            ticket=int(draw(1, 2**40)),
        )
        inbox, expected = Inbox(generator), np.concatenate([voice, *before, own])
        turn = Turn(Utterance(order), inbox, own, expected, int(draw(1, max_frames)) if draw(3) == 0 else None)
        generator.submit(turn.utterance, inbox)
        self.sent.append(turn)
        self.said, self.last = before, turn

    def heard(self, heard_ms: int | None) -> list[np.ndarray]:
        """Return the rows of the last turn, as far as it was heard."""
        if self.last is None:
            return []
        frames = self.last.frames[: self.last.leaves_at if heard_ms is None else heard_ms // FRAME_MS]
        if not len(frames):
            return []
        rows = np.zeros((len(frames) + 1, self.config.frame_columns), np.int32)
        rows[:-1, :-1], rows[:, -1] = frames, MASKED
        return [np.concatenate([self.last.own, rows])]

    def is_over(self, generator: Generator) -> bool:
        """True if the turn is over for its caller, which takes what has come and leaves when it is time."""
        turn = self.sent[-1]
        came = len(turn.frames)
        leaves = turn.leaves_at is not None and came >= turn.leaves_at
        generator.take(turn.utterance.order.ticket, turn.leaves_at or 0 if leaves else came, gone=leaves)
        assert not turn.inbox.error
        return leaves or bool(turn.inbox.finish)


def fitting(turns: list[np.ndarray], free: int) -> list[np.ndarray]:
    """Return all turns, or the longest end of them that fits and leaves out a third of the window."""
    if sum(map(len, turns)) <= free:
        return turns
    ends = [turns[first:] for first in range(1, len(turns))]
    left_out = [sum(map(len, turns[:first])) for first in range(1, len(turns))]
    fit = [end for end, out in zip(ends, left_out, strict=True) if sum(map(len, end)) <= free and 3 * out >= WINDOW]
    return fit[0] if fit else []


def converse(generator: Generator, talks: list[Talk], turns: int) -> None:
    """Let all conversations go on at once until each has had its turns."""
    running = list(talks)
    for talk in talks:
        talk.speak(generator)
    while running or generator.core.streams:
        generator.step()
        generator.deliver()
        for talk in list(running):
            if talk.is_over(generator):
                if len(talk.sent) < turns:
                    talk.speak(generator)  # at once: the one before may not be gone yet
                else:
                    running.remove(talk)
        generator.core.scheduler.check()


@pytest.mark.parametrize("tight", [True, False], ids=["preempted", "reused"])
def test_the_frames_of_a_turn_are_those_of_a_request_with_the_same_rows(
    tight: bool, parts: Parts, demo_folder: Path
) -> None:
    """Random conversations at once: some are interrupted, heard in part, trimmed, and in a pool that is too small for
    them preempted and computed anew. The eager engine has the small pool, the compiled one a large one."""
    weights, longest = Checkpoint(demo_folder, parts.config), 40 if tight else 14
    if tight:
        parts = replace(parts, backbone=TorchBackbone(weights, parts.config, num_blocks=26, block_size=8))
        alone = make_generator(replace(parts, backbone=TorchBackbone(weights, parts.config, 200)), Limits())
    else:
        depth = CompiledDepth(weights, parts.config, parts.embedding)
        parts = replace(parts, backbone=CompiledBackbone(weights, parts.config, num_blocks=100), depth=depth)
        alone = make_generator(
            replace(parts, backbone=CompiledBackbone(weights, parts.config, 200)), Limits(step_positions=2048)
        )
    engine = TwoPart(parts.config, parts.embedding, parts.backbone, parts.depth, LIMITS.max_streams)
    config = config_with(parts.config, max_seq_len=WINDOW)
    generator = Generator(config, engine, LIMITS, options=FlowOptions(max_wait_s=600))
    generator.core._retire_every_s = 0.0  # callers leave at a step, whatever time it is
    talks = [Talk(str(n), np.random.default_rng([tight, n]), parts.config, longest) for n in range(4)]
    converse(generator, talks, turns=4 if tight else 6)
    core = generator.core
    assert core.conversations.counts.trimmed
    assert core.scheduler.preempted if tight else core.scheduler.pool.shared

    sent = [turn for talk in talks for turn in talk.sent]
    for turn in sent:
        assert np.array_equal(turn.utterance.order.frames, turn.expected)
    alike = [
        Utterance(replace(turn.utterance.order, frames=turn.expected, session=None, ticket=0, voice=0, heard_ms=None))
        for turn in sent
    ]
    expected = generate(alone, alike)
    found = [a[: len(t.frames)] for a, t in zip(expected, sent, strict=True)]
    assert_same_frames([turn.frames for turn in sent], found)
    assert sum(len(turn.frames) for turn in sent) > 100


def test_what_was_not_heard_has_no_influence(parts: Parts) -> None:
    """Two conversations differ in the frames behind those that were heard, and in nothing else."""
    first, second = (Talk("", np.random.default_rng(n), parts.config).rows(8, 0) for n in range(2))
    following = []
    for unheard in (None, 7):
        generator = make_generator(parts, Limits())
        spoken = Utterance(Order(first, 20, seed=3, session="a"))
        generate(generator, [spoken])
        (last,) = [each.last for each in generator.core.conversations]
        if unheard and last:
            last.speech[6:, :-1] = unheard
        following += generate(generator, [Utterance(Order(second, 8, seed=9, session="a", heard_ms=6 * FRAME_MS + 79))])
    assert_same_frames(following[:1], following[1:])
