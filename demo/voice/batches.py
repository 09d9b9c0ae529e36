"""Training examples as the server would prompt: one sentence or several, after earlier segments or not, by any
speaker; cut into batches of rows of like length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from demo.voice.corpus import Example
from demo.voice.sizes import CODEBOOKS

BOS, EOS = 256, 257
POSITIONS = 2400
"""Most positions of a batch, padding included."""
POOL = 700
"""Rows that are made at once, to sort them by length."""
MOST_FRAMES, MOST_CONTEXT_FRAMES = 190, 140
DEPTH_SHORT, DEPTH_LONG = 0.12, 0.05
"""Shares of the frames of which the depth decoder learns, by how many codebooks."""
AHEAD = 3
"""Letters ahead of a frame's last one that are looked at."""


@dataclass
class Segment:
    """A speaker's words with their frames."""

    tag: int
    voice: int
    examples: list[Example]
    judged: bool
    """True if its frames are to be learnt, False if they are only listened to."""
    heard: bool = False
    """True if its codes are those that Mimi's encoder hears."""

    @property
    def text(self) -> str:
        return " ".join(example.text for example in self.examples)

    @property
    def frames(self) -> int:
        return sum(example.codes.shape[1] for example in self.examples)

    @property
    def positions(self) -> int:
        return len(f"[{self.tag}] {self.text}") + 2 + self.frames + 1


Row = list[Segment]


@dataclass
class Batch:
    """Rows of positions; most fields are flat lists of positions, numbered through the rows."""

    shape: tuple[int, int]
    text_at: Tensor
    text: Tensor
    audio_at: Tensor
    codes: Tensor
    """int64 [frames that are input, CODEBOOKS]."""
    predicts: Tensor
    """Positions that predict a frame."""
    targets: Tensor
    """int64 [predictions, CODEBOOKS]; zeros for the end."""
    speech: Tensor
    """Numbers of the predictions that are not the end."""
    latents: Tensor
    sounds: Tensor
    """For the predictions that are not the end."""
    look: Tensor
    """int64 [3, predictions, 2]: first and last column to look at, -1 where it does not matter."""
    depth_short: Tensor
    depth_long: Tensor
    """Numbers of the predictions of which further codebooks are learnt."""


def sentences(rng: random.Random, examples: list[Example], most_frames: int, most: int) -> list[Example]:
    """Some examples that together have no more frames than that; at least one."""
    chosen = [rng.choice(examples)]
    frames = chosen[0].codes.shape[1]
    for _ in range(most - 1):
        another = rng.choice(examples)
        frames += another.codes.shape[1]
        if frames > most_frames:
            break
        chosen.append(another)
    return chosen


def row(rng: random.Random, examples: list[Example], heard: list[list[Example]]) -> Row:
    """One training example. Without context SPEAKER decides the voice; a context's voice goes on under its tag. Most
    contexts are as the encoder hears them, where there are such examples for both voices."""
    kind, voice = rng.random(), rng.randrange(2)
    if kind < 0.88:
        tag = voice if rng.random() < 0.94 else rng.randrange(2, 100)
        most = 1 if kind < 0.76 else rng.randint(2, 5)
        return [Segment(tag, voice, sentences(rng, examples, MOST_FRAMES, most), True)]
    chance = rng.random()
    tag = voice if chance < 0.4 else 1 - voice if chance < 0.7 else rng.randrange(2, 100)
    listens = all(heard) and rng.random() < 0.8
    spoken = sentences(rng, heard[voice] if listens else examples, MOST_CONTEXT_FRAMES, rng.randint(1, 3))
    context = Segment(tag, voice, spoken, judged=tag == voice and not listens, heard=listens)
    if tag == voice and rng.random() < 0.3:  # the other voice answers
        tag = voice = 1 - voice
    return [context, Segment(tag, voice, [rng.choice(examples)], True)]


def batches(seed: int, examples: list[Example]) -> Iterator[Batch]:
    """Batches without end."""
    rng = random.Random(seed)
    while True:
        heard = [[one for one in examples if one.heard and one.heard[0] == voice] for voice in range(2)]
        rows = [row(rng, examples, heard) for _ in range(POOL)]
        rows.sort(key=lambda segments: sum(segment.positions for segment in segments))
        groups: list[list[Row]] = [[]]
        for segments in rows:
            longest = sum(segment.positions for segment in segments)
            if longest * (len(groups[-1]) + 1) > POSITIONS and groups[-1]:
                groups.append([])
            groups[-1].append(segments)
        rng.shuffle(groups)
        for group in groups:
            yield collate(group, rng.randrange(1 << 30))


def collate(rows: list[Row], seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    longest = max(sum(segment.positions for segment in segments) for segments in rows)
    columns = _Columns()
    for number, segments in enumerate(rows):
        at = number * longest
        for segment in segments:
            at = columns.add(segment, at, number * longest)
    made = {name: np.concatenate(pieces, axis=int(name == "look")) for name, pieces in vars(columns).items()}
    speech = np.flatnonzero(made["targets"][:, 0])
    chance = rng.random(len(made["targets"]))
    ends = made["targets"][:, 0] == 0
    # An end has but one continuation, and must be sure of it.
    short = np.flatnonzero(np.where(ends, chance < 0.2, chance < DEPTH_SHORT))
    long = np.flatnonzero(np.where(ends, chance > 0.7, chance > 1 - DEPTH_LONG))
    as_tensor = {name: torch.from_numpy(values) for name, values in made.items()}
    return Batch(
        shape=(len(rows), longest),
        **as_tensor,
        speech=torch.from_numpy(speech),
        depth_short=torch.from_numpy(short),
        depth_long=torch.from_numpy(long),
    )


class _Columns:
    """Pieces of a batch's lists, segment by segment."""

    def __init__(self) -> None:
        self.text_at: list[np.ndarray] = []
        self.text: list[np.ndarray] = []
        self.audio_at: list[np.ndarray] = []
        self.codes: list[np.ndarray] = []
        self.predicts: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.latents: list[np.ndarray] = []
        self.sounds: list[np.ndarray] = []
        self.look: list[np.ndarray] = []

    def add(self, segment: Segment, at: int, row_start: int) -> int:
        """Add a segment whose first position is `at` → the position behind it."""
        prefix = f"[{segment.tag}] "
        tokens = np.array([BOS, *f"{prefix}{segment.text}".encode("ascii"), EOS], np.int64)
        frames = segment.frames
        audio_at = np.arange(frames + 1) + at + len(tokens)
        pieces = [
            example.heard[1] if segment.heard and example.heard else example.codes[segment.voice]
            for example in segment.examples
        ]
        codes = np.concatenate(pieces).astype(np.int64)
        codes = np.concatenate([codes, np.zeros((1, CODEBOOKS), np.int64)])
        self.text_at.append(np.arange(len(tokens)) + at)
        self.text.append(tokens)
        self.audio_at.append(audio_at)
        self.codes.append(codes)
        if segment.judged:
            self.predicts.append(audio_at - 1)
            self.targets.append(codes)
            self.latents += [example.latents[segment.voice].astype(np.float32) for example in segment.examples]
            self.sounds += [example.sounds.astype(np.int64) for example in segment.examples]
            self.look.append(self._look(segment, at - row_start + 1 + len(prefix)))
        else:  # nothing to concatenate would be an error
            self.predicts.append(audio_at[:0])
            self.targets.append(codes[:0])
            self.look.append(np.zeros((3, 0, 2), np.int64))
        return at + len(tokens) + frames + 1

    def _look(self, segment: Segment, text_start: int) -> np.ndarray:
        """Columns of the letters of each prediction's frame before, of its own frame, and ahead: [3, frames + 1, 2]."""
        own, start = [], text_start
        for example in segment.examples:
            own.append(np.stack([example.first, example.last], 1).astype(np.int64) + start)
            start += len(example.text) + 1
        end = start - 1  # EOS
        letters = np.concatenate([*own, [[end, end]]])
        before = np.concatenate([[[-1, -1]], letters[:-1]])
        ahead = np.stack([letters[:, 1], np.minimum(letters[:, 1] + AHEAD, end)], 1)
        return np.stack([before, letters, ahead])
