"""One frame for every sampling sequence as one CUDA graph: from block tables to codes and the backbone's next input.

A graph is captured for each bucket of rows and, within it, of ranks (how many of the likeliest codes can be sampled). A
step takes the smallest that fits; padding rows use the scratch block and the scratch slot. The host sends one small
buffer before a replay and reads the codes after it, one step late (`misotts.generate.loop`).

Prefill chunks are computed beside the graph, by `GraphBackbone.forward`, up to a prompt's last position: that one is a
row of the graph like any other; its input is the embedding of a prompt's row, not of a frame. So the first frame is
sampled by the same code as every other, and the depth decoder runs nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from misotts.config import ModelConfig
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.capture import capture
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.interface import Batch, Sampling, Step
from misotts.engines.sampling import gumbel_noise
from misotts.engines.transfer import to_device

USUAL_RANKS = 64
"""Ranks of the graphs for the usual values of TOP_K; the other graphs have a rank for every code."""

_COLUMNS = ("slot", "position", "number", "top_k", "temperature", "seed")


def row_buckets(max_streams: int) -> list[int]:
    """Numbers of rows for which a graph is captured: powers of two up to 64, multiples of 64, and `max_streams`."""
    small = [1 << n for n in range(7) if 1 << n < max_streams]
    return [*small, *range(128, max_streams, 64), max_streams] if max_streams > 64 else [*small, max_streams]


def bucket_shapes(max_streams: int, audio_codes: int) -> list[tuple[int, int]]:
    """Return (rows, ranks) of every graph, smallest first."""
    ranks = sorted({min(USUAL_RANKS, audio_codes), audio_codes})
    return [(rows, n) for rows in row_buckets(max_streams) for n in ranks]


@dataclass(frozen=True)
class Bucket:
    """One captured shape and its static buffers."""

    rows: int
    ranks: int
    inputs: torch.Tensor
    """int64 [rows, 6 + columns]: `_COLUMNS`, the temperature as the bits of a float32, then the block table."""
    codes: torch.Tensor
    """int64 [rows, codebooks]."""


class GraphEngine:
    """Backbone and depth decoder in one: see `Engine`."""

    def __init__(
        self, config: ModelConfig, embedding: Embedding, backbone: GraphBackbone, depth: GraphDepth, max_streams: int
    ) -> None:
        """Make the buffers of every bucket and, on a GPU, capture them all. `max_streams`: number of slots."""
        self.block_size, self.num_blocks = backbone.block_size, backbone.num_blocks
        self.backbone, self.embedding, self.depth = backbone, embedding, depth
        device = embedding.text_table.device
        self._scratch_slot = max_streams
        self.next_input = embedding.text_table.new_zeros(max_streams + 1, embedding.width)
        """Input of each slot's next position [slots + 1, backbone width]; the last row is the scratch slot."""
        self._columns = -(-config.max_seq_len // backbone.block_size)
        self.buckets = [
            Bucket(
                rows,
                ranks,
                torch.from_numpy(self._padding(rows)).to(device),
                torch.zeros(rows, depth.codebooks, dtype=torch.int64, device=device),
            )
            for rows, ranks in bucket_shapes(max_streams, config.audio_codes)
        ]
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        if device.type == "cuda":
            self._compile_prefill()
            pool = torch.cuda.graph_pool_handle()
            for bucket in reversed(self.buckets):  # the largest first: the others fit into its memory
                self._graphs[bucket.rows, bucket.ranks] = capture(partial(self.compute, bucket), pool)

    def _compile_prefill(self) -> None:
        """Prefill the scratch block with chunks of every tile size, so that Triton compiles all kernels now."""
        for length in (2, 17, 33, 65):
            inputs = self.next_input.new_zeros(length, self.embedding.width)
            blocks = np.zeros((1, self._columns), np.int32)
            self.backbone.forward(Batch(inputs, np.array([length], np.int32), np.zeros(1, np.int32), blocks))

    @torch.inference_mode()
    def step(self, step: Step) -> torch.Tensor:
        """See `Engine.step`."""
        if step.generating < len(step.slots):
            self._prefill(step)
        sampling = np.flatnonzero(step.samples)
        if not len(sampling):
            return torch.empty(0, self.depth.codebooks, dtype=torch.int64)
        rows, ranks = len(sampling), int(step.top_k[sampling].max())
        bucket = next(b for b in self.buckets if b.rows >= rows and b.ranks >= ranks)
        bucket.inputs.copy_(self._put(self._fill(step, sampling, bucket.rows)))
        if graph := self._graphs.get((bucket.rows, bucket.ranks)):
            graph.replay()
        else:
            self.compute(bucket)
        return bucket.codes[:rows]

    def _prefill(self, step: Step) -> None:
        """Compute the prefill chunks without the positions that sample a frame, which become next inputs."""
        chunks = slice(step.generating, None)
        samples, lengths = step.samples[chunks], step.lengths[chunks]
        inputs = self.embedding.prompt(torch.from_numpy(step.rows))
        last = (lengths.cumsum() - 1)[samples]
        if len(last):
            self.next_input[self._put(step.slots[chunks][samples])] = inputs[self._put(last)]
            inputs = inputs[self._put(np.delete(np.arange(len(inputs)), last))]
        lengths = lengths - samples
        left = np.flatnonzero(lengths)
        if len(left):
            self.backbone.forward(Batch(inputs, lengths[left], step.starts[chunks][left], step.blocks[chunks][left]))

    def _put(self, values: npt.NDArray[np.int64]) -> torch.Tensor:
        return to_device(values, self.next_input.device)

    def _padding(self, rows: int) -> npt.NDArray[np.int64]:
        inputs = np.zeros((rows, len(_COLUMNS) + self._columns), np.int64)
        inputs[:, _COLUMNS.index("slot")] = self._scratch_slot
        inputs[:, _COLUMNS.index("top_k")] = 1
        inputs[:, _COLUMNS.index("temperature")] = np.ones(rows, np.float32).view(np.int32)
        return inputs

    def _fill(self, step: Step, sampling: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int64]:
        """Return the inputs of a bucket of `rows` rows for the sequences `sampling`."""
        inputs, n = self._padding(rows), len(sampling)
        last = step.starts + step.lengths - 1
        values = (step.slots, last, step.numbers, step.top_k, step.temperature.view(np.int32), step.seeds)
        for column, value in enumerate(values):
            inputs[:n, column] = value[sampling]
        inputs[:n, len(_COLUMNS) : len(_COLUMNS) + step.blocks.shape[1]] = step.blocks[sampling]
        return inputs

    @torch.inference_mode()
    def compute(self, bucket: Bucket) -> None:
        """The captured code: it reads and writes the bucket's buffers, `next_input` and the pool of blocks."""
        slot, position, number, top_k, temperature, seed = bucket.inputs[:, : len(_COLUMNS)].T.contiguous()
        tables = bucket.inputs[:, len(_COLUMNS) :].int()
        hidden = self.backbone.advance(self.next_input.index_select(0, slot), position, tables)
        noise = gumbel_noise(seed, number, self.depth.codebooks, bucket.ranks)
        sampling = Sampling(temperature.int().view(torch.float32), top_k, noise)
        codes, following = self.depth.forward(hidden, sampling)
        bucket.codes.copy_(codes)
        self.next_input.index_copy_(0, slot, following)
