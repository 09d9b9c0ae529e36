"""Train the language model; it takes up new clips as they come, and goes on where it was stopped."""

from __future__ import annotations

import copy
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from demo.voice.batches import Batch, batches
from demo.voice.codec import average_into, start_from
from demo.voice.corpus import Example, load_examples
from demo.voice.files import CpuClock, log, write_whole
from demo.voice.lm import LanguageModel
from demo.voice.optimizer import Optimizer

SHARES = {"book 0": 1.0, "depth": 3.0, "latents": 0.5, "sounds": 0.2, "early sounds": 0.2, "guidance": 1.0}
"""Weight of each loss; the depth decoder's is a mean over codebooks."""
WARM_UP = 200
COOL_DOWN = 0.4
"""Share of the steps, the last, in which the learning rate falls to nothing."""
SAVE_EVERY = 100
NEW_CLIPS_EVERY = 200
HELD_CHUNKS = 2
"""Chunks, the first, that are only used to measure."""


def rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))


def loss_of(
    model: LanguageModel, batch: Batch, generator: torch.Generator | None
) -> tuple[torch.Tensor, dict[str, float]]:
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch, generator)
    total = sum(share * losses[name] for name, share in SHARES.items())
    assert isinstance(total, torch.Tensor)
    return total, {name: float(value.detach()) for name, value in losses.items()}


def train(work: Path, steps: int) -> None:
    torch.manual_seed(0)
    model = LanguageModel()
    start_from(work / "lm-start.pt", model)
    optimizer = Optimizer(model)
    kept = copy.deepcopy(model.state_dict())
    path, start, rows, clock = work / "lm.pt", 0, 0, CpuClock(0)
    if path.exists():
        saved = torch.load(path)
        start, rows, kept = saved["step"], saved["rows"], saved["kept"]
        model.load_state_dict(saved["model"])
        optimizer.load(saved["optimizer"])
        clock = CpuClock(saved["cpu_seconds"])
    chunks: dict[str, list[Example]] = {}
    examples = load_examples(work, chunks)
    held, examples = _split(examples)
    source = batches(start, examples)
    seen: dict[str, list[float]] = defaultdict(list)
    for step in range(start, steps):
        if (step + 1) % NEW_CLIPS_EVERY == 0:
            examples += load_examples(work, chunks)
        batch = next(source)
        total, losses = loss_of(model, batch, torch.Generator().manual_seed(step))
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step(rate(step, steps))
        average_into(kept, model, step)
        rows += batch.shape[0]
        for name, value in losses.items():
            seen[name].append(value)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            log(f"lm: step {step + 1} of {steps}, {rows} rows, {len(examples)} sentences: {_means(seen)}")
            seen.clear()
            with write_whole(path) as draft:
                state = dict(step=step + 1, cpu_seconds=clock.seconds(), rows=rows, model=model.state_dict(), kept=kept)
                torch.save({**state, "optimizer": optimizer.state()}, draft)
        if (step + 1) % (5 * SAVE_EVERY) == 0 or step + 1 == steps:
            log(f"lm: clips not seen: {_measure(kept, held)}")


def _split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    held = HELD_CHUNKS * 100 if len(examples) > HELD_CHUNKS * 200 else len(examples) // 4
    return examples[:held], examples[held:]


def _means(seen: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {np.mean(values):.3f}" for name, values in seen.items())


@torch.no_grad()
def _measure(weights: dict[str, torch.Tensor], held: list[Example]) -> str:
    """The losses of averaged weights on clips that are never learnt, without noise."""
    model = LanguageModel()
    model.load_state_dict(weights)
    seen: dict[str, list[float]] = defaultdict(list)
    for _, batch in zip(range(4), batches(0, held), strict=False):
        for name, value in loss_of(model, batch, None)[1].items():
            seen[name].append(value)
    return _means(seen)
