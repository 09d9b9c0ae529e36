"""The effect of quantised weights, or of keys and values in FP8, on the codes that the graph engine samples.

    python -m benchmarks.agreement [--model DIR] [--weights int8] [--kv-type fp8] [--device cuda]

Two engines, one of them without quantisation, read the same prompts (random ones: half text, half audio) and then the
same frames, those of the first engine, code by code. So each code is compared given the same codes before it, and an
earlier difference has no effect on it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer

from benchmarks.costs.engines import random_prompts
from benchmarks.record import save
from misotts.config import ModelConfig
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.operations import Operations, operations
from misotts.engines.interface import Batch, Sampling
from misotts.engines.sampling import gumbel_noise
from misotts.engines.table import KvType, WeightType
from misotts.model.checkpoint import Checkpoint

BLOCK_SIZE = 32
TEMPERATURE, TOP_K = 0.9, 50


@dataclass(frozen=True)
class Agreement:
    """Means over all codes."""

    likeliest: float
    """Share of codes with the same likeliest value."""
    overlap: float
    """Probability that the two distributions (temperature 0.9, top-k 50) have in common: 1 if they are equal, 0 if no
    code can be sampled from both."""


@dataclass
class Recorder:
    """Operations that record the logits, and sample the `forced` codes if there are any."""

    run: Operations
    forced: list[torch.Tensor] | None = None
    logits: list[torch.Tensor] = field(default_factory=list)
    sampled: list[torch.Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    def sample(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        noise: torch.Tensor,
        table: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `plain.sample`."""
        self.logits.append(logits.float().cpu())
        if self.forced is None:
            codes, rows = self.run.sample(logits, temperature, top_k, noise, table)
        else:
            codes = self.forced[len(self.sampled)]
            rows = None if table is None else table[codes]
        self.sampled.append(codes)
        return codes, rows


def record(
    weights: Checkpoint,
    config: ModelConfig,
    prompts: torch.Tensor,
    frames: int,
    device: str = "cpu",
    weight_type: WeightType = "full",
    kv_type: KvType = "full",
    forced: list[torch.Tensor] | None = None,
) -> Recorder:
    """Run an engine over `prompts` int64 [n, positions, codebooks + 1] and `frames` frames, sampled or `forced`."""
    n, length, _ = prompts.shape
    on_gpu = device != "cpu"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    embedding = Embedding(weights, config, device, dtype)
    recorder = Recorder(operations("fused" if on_gpu else "plain"), forced)
    depth = GraphDepth(weights, config, embedding, cast(Operations, recorder), weight_type)
    columns = -(-(length + frames) // BLOCK_SIZE)
    run = recorder.run
    backbone = GraphBackbone(weights, config, 1 + n * columns, BLOCK_SIZE, run, device, dtype, weight_type, kv_type)
    blocks = 1 + np.arange(n * columns, dtype=np.int32).reshape(n, columns)
    tables = torch.from_numpy(blocks).to(device)
    ranks = min(TOP_K, config.audio_codes)
    read = embedding.prompt(prompts[:, :-1].flatten(0, 1))
    backbone.forward(Batch(read, np.full(n, length - 1, np.int32), np.zeros(n, np.int32), blocks))
    x = embedding.prompt(prompts[:, -1])
    seeds = torch.arange(n, device=device)
    for number in range(frames):
        hidden = backbone.advance(x, torch.full_like(seeds, length - 1 + number), tables)
        noise = gumbel_noise(seeds, torch.full_like(seeds, number), config.audio_num_codebooks, ranks)
        temperature, top_k = torch.full((n,), TEMPERATURE, device=device), torch.full_like(seeds, ranks)
        _, x = depth.forward(hidden, Sampling(temperature, top_k, noise))
    return recorder


def compare(reference: Recorder, other: Recorder) -> Agreement:
    likeliest, overlap = [], []
    for ours, theirs in zip(reference.logits, other.logits, strict=True):
        likeliest.append((ours.argmax(dim=1) == theirs.argmax(dim=1)).float().mean())
        overlap.append(torch.minimum(_chances(ours), _chances(theirs)).sum(dim=1).mean())
    return Agreement(*(float(torch.stack(means).mean()) for means in (likeliest, overlap)))


def _chances(logits: torch.Tensor) -> torch.Tensor:
    """Probability of each code [n, codes]."""
    best = logits.topk(min(TOP_K, logits.shape[1]), dim=1)
    return torch.zeros_like(logits).scatter(1, best.indices, (best.values / TEMPERATURE).softmax(dim=1))


def make_prompts(config: ModelConfig, n: int, length: int) -> torch.Tensor:
    """Return prompts int64 [n, length, codebooks + 1], text and then audio."""
    return torch.from_numpy(random_prompts(config, n, length // 2, length - length // 2).astype(np.int64))


def main(
    model: Annotated[Path, typer.Option(help="Model folder.")] = Path("models/random"),
    weights: WeightType = "int8",
    kv_type: KvType = "full",
    device: str = "cpu",
    streams: int = 16,
    positions: Annotated[int, typer.Option(help="Positions of a prompt.")] = 100,
    frames: int = 20,
) -> None:
    """Compare a quantised graph engine with one that is not."""
    config = ModelConfig.load(model)
    checkpoint = Checkpoint(model, config)
    prompts = make_prompts(config, streams, positions)
    reference = record(checkpoint, config, prompts, frames, device)
    other = record(checkpoint, config, prompts, frames, device, weights, kv_type, reference.sampled)
    found = asdict(compare(reference, other))
    typer.echo(", ".join(f"{name.replace('_', ' ')} {share:.2%}" for name, share in found.items()))
    figures = dict(weights=weights, kv=kv_type, device=device, codes=len(reference.sampled) * streams, **found)
    typer.echo(save(f"agreement-{device}-{weights}-kv-{kv_type}", figures))


if __name__ == "__main__":
    typer.run(main)
