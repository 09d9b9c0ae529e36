"""The engines of the generate stage that the suite holds against each other and against the floor.

To put another one on the list, write what makes it and add a line to `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch

from misotts.config import MASKED, ModelConfig
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine
from misotts.engines.graph.operations import operations_on
from misotts.engines.interface import Backbone, Depth, Limits, Step
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.two_part import TwoPart
from misotts.generate.inbox import Inbox
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.model.checkpoint import tensor_shapes


@dataclass(frozen=True)
class Needs:
    """What an engine is made for."""

    weights: Mapping[str, torch.Tensor]
    config: ModelConfig
    num_blocks: int
    max_streams: int
    device: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Engines:
    """What the sections drive."""

    config: ModelConfig
    embedding: Embedding
    backbone: Backbone
    depth: Depth
    engine: TwoPart | GraphEngine
    """Both parts together."""

    def generator(self, limits: Limits, first_chunk_frames: int = 1) -> Generator:
        """The generate stage around them, not started."""
        return Generator(self.config, self.engine, limits, first_chunk_frames)

    def launch(self, step: Step) -> torch.Tensor:
        """What the loop gives the device for a step. Returns the codes on the host, where they may still be on their
        way."""
        return self.engine.step(step).int().to("cpu", non_blocking=True)


def torch_engines(needs: Needs) -> Engines:
    """The eager torch engines, which every other engine is held against."""
    where = needs.device, needs.dtype
    embedding = Embedding(needs.weights, needs.config, *where)
    depth = TorchDepth(needs.weights, needs.config, embedding, *where)
    backbone = TorchBackbone(needs.weights, needs.config, needs.num_blocks, BLOCK_SIZE, *where)
    engine = TwoPart(needs.config, embedding, backbone, depth, needs.max_streams)
    return Engines(needs.config, embedding, backbone, depth, engine)


def graph_engines(needs: Needs) -> Engines:
    """Backbone and depth decoder as one CUDA graph a frame. Each alone runs outside the graphs, kernel by kernel."""
    run, where = operations_on(needs.device), (needs.device, needs.dtype)
    config = needs.config
    embedding = Embedding(needs.weights, config, *where)
    depth = GraphDepth(needs.weights, config, embedding, run, *where)
    backbone = GraphBackbone(needs.weights, config, needs.num_blocks, BLOCK_SIZE, run, *where)
    engine = GraphEngine(config, embedding, backbone, depth, needs.max_streams)
    return Engines(config, embedding, backbone, depth, engine)


def speak(
    generator: Generator, utterances: Sequence[Utterance], step: Callable[[], object] | None = None
) -> list[npt.NDArray[np.int32]]:
    """Submit the utterances, acknowledge their chunks at once and return the codes [frames, codebooks] of each.

    A generator that is not started needs `step`, which is also called after each submission.
    """
    inbox = Inbox()
    for utterance in utterances:
        generator.submit(utterance, inbox)
        if step:
            step()
    codes: dict[int, list[npt.NDArray[np.int32]]] = {utterance.stream: [] for utterance in utterances}
    running = set(codes)
    while running:
        if step and inbox.empty():
            step()
            generator.deliver()
            continue
        chunk = inbox.next()
        codes[chunk.stream].append(chunk.codes)
        generator.acknowledge(chunk.stream, chunk.index)
        if chunk.finish:
            running.remove(chunk.stream)
    return [np.concatenate(each) for each in codes.values()]


ENGINES: dict[str, Callable[[Needs], Engines]] = {
    "torch": torch_engines,
    "graph": graph_engines,
}


def random_prompts(config: ModelConfig, streams: int, text: int, audio: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """Return prompts [streams, text + audio, codebooks + 1] of random text positions and then audio positions."""
    dice = np.random.default_rng([streams, seed])
    prompts = np.full((streams, text + audio, config.frame_columns), MASKED, np.int32)
    prompts[:, :text, -1] = dice.integers(0, config.text_vocab_size, (streams, text))
    prompts[:, text:, :-1] = dice.integers(0, config.audio_codes, (streams, audio, config.audio_num_codebooks))
    return prompts


class RandomWeights(Mapping[str, torch.Tensor]):
    """A model's weights at the scales of a trained network, each made on the device when it is asked for and the same
    every time: 16 GB that never lie on a disk, nor twice in memory."""

    def __init__(self, config: ModelConfig, device: str, dtype: torch.dtype) -> None:
        self.shapes = tensor_shapes(config)
        self._device, self._dtype = device, dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self.shapes[name]
        if name.endswith("scale"):
            return torch.ones(shape, device=self._device, dtype=self._dtype)
        dice = torch.Generator(self._device).manual_seed(crc32(name.encode()))
        tensor = torch.randn(shape, generator=dice, device=self._device, dtype=self._dtype)
        inputs = shape[1] if name == "audio_head" else shape[-1]
        return tensor.mul_(0.2 if "embeddings" in name else inputs**-0.5 * (2 if "head" in name else 1))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
