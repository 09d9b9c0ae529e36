"""What the generate loop costs the host: microseconds per utterance and step, with engines that return at once.

    python -m benchmarks.host_cost

A server that streams 400 utterances draws 5,000 frames a second: above 200 us a frame the host would need more than a
core for them, whatever the GPU does. The engines here cost nothing but the making of their tensors.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from benchmarks.listener import Listener
from benchmarks.record import save
from misotts.config import MASKED, ModelConfig, TransformerConfig
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Limits, Sampling
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance

UTTERANCES = (1, 64, 256, 512)
STEPS = 400
WARM_UP = 30
PROMPT = 64
CODEBOOKS = 32
WIDTH = 64
BLOCK = 32


class InstantBackbone:
    block_size = BLOCK

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks

    def forward(self, batch: Batch) -> torch.Tensor:
        return torch.empty(len(batch.lengths), WIDTH)


class InstantDepth:
    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(hidden), CODEBOOKS, dtype=torch.int32), hidden


class SmallEmbedding(Embedding):
    def __init__(self) -> None:
        self.text_table = torch.zeros(1, WIDTH)

    def prompt(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(frames), WIDTH)


@dataclass(frozen=True)
class Cost:
    """Microseconds per utterance and step."""

    loop: float
    """In the loop's thread, the noise for top-k 1 included."""
    sending: float
    """In the second thread: chunks put together, and their acknowledgements taken."""


def measure(count: int) -> Cost:
    """The cost with `count` utterances running."""
    sizes = TransformerConfig(num_layers=1, embed_dim=WIDTH, num_heads=1, num_kv_heads=1, intermediate_dim=8)
    config = ModelConfig(10, 2051, CODEBOOKS, sizes, sizes)
    blocks = 1 + count * (PROMPT + STEPS + WARM_UP + 2 * BLOCK) // BLOCK
    limits = Limits(max_streams=count, max_waiting=count, step_positions=1 << 20)
    generator = Generator(config, SmallEmbedding(), InstantBackbone(blocks), InstantDepth(), limits)
    prompt = np.full((PROMPT, CODEBOOKS + 1), MASKED, np.int32)
    for seed in range(count):
        prompt = prompt.copy()
        prompt[:, -1] = seed
        utterance = Utterance(prompt, STEPS + WARM_UP + 10, seed, temperature=0)
        generator.submit(utterance, Listener(generator))
    for _ in range(WARM_UP):
        generator.step()
        generator.hand_on()
    steps = sending = 0.0
    drawn = generator.statistics.frames
    for _ in range(STEPS):
        began = time.perf_counter()
        generator.step()
        stepped = time.perf_counter()
        generator.hand_on()
        steps += stepped - began
        sending += time.perf_counter() - stepped
    assert generator.statistics.frames - drawn == STEPS * count, "somebody was not scheduled"
    frames = STEPS * count
    return Cost(steps / frames * 1e6, sending / frames * 1e6)


def main() -> None:
    torch.set_num_threads(1)
    figures = {}
    for count in UTTERANCES:
        cost = min((measure(count) for _ in range(3)), key=lambda cost: cost.loop)
        figures[str(count)] = {name: round(value, 2) for name, value in asdict(cost).items()}
        print(f"{count:>4} utterances: loop {cost.loop:6.2f}, sending {cost.sending:6.2f} us per utterance and step")
    print(save("host-cost", {"us_per_utterance_and_step": figures, "best_of": 3, "steps": STEPS}))


if __name__ == "__main__":
    main()
