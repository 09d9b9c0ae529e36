"""The engines of the generate stage that are compared with each other and with the floor, and their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch

from misotts.config import MASKED, ModelConfig
from misotts.engines.compiled.engine import CompiledBackbone, CompiledDepth
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine
from misotts.engines.graph.operations import operations_on
from misotts.engines.interface import Backbone, Depth, Limits, Step
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.table import WeightType
from misotts.engines.two_part import TwoPart
from misotts.generate.inbox import Inbox
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.hold_back import HoldBack
from misotts.model.checkpoint import tensor_shapes

ENGINES = ("torch", "graph")
"""Engines that `make_engines` can make, the fastest last."""


@dataclass(frozen=True)
class Engines:
    """An engine and its parts."""

    config: ModelConfig
    embedding: Embedding
    backbone: Backbone
    depth: Depth
    """Backbone and depth decoder alone; those of `graph` run outside its graphs, kernel by kernel."""
    engine: TwoPart | GraphEngine
    """Both parts together."""

    def generator(self, limits: Limits, hold_back: HoldBack = HoldBack()) -> Generator:
        """Return a generate stage that is not started."""
        return Generator(self.config, self.engine, limits, hold_back)

    def launch(self, step: Step) -> torch.Tensor:
        """Launch a step as the loop does; return the codes on the host, where they may not have arrived yet."""
        return self.engine.step(step).int().to("cpu", non_blocking=True)


def make_engines(
    name: str,
    weights: Mapping[str, torch.Tensor],
    config: ModelConfig,
    num_blocks: int,
    max_streams: int,
    device: str,
    dtype: torch.dtype,
    weight_type: WeightType = "full",
) -> Engines:
    """Return the engines of that name, one of `ENGINES` or `compiled`; `graph` alone has weight types."""
    embedding = Embedding(weights, config, device, dtype)
    if name == "graph":
        run = operations_on(device)
        graph_depth = GraphDepth(weights, config, embedding, run, weight_type)
        graph_backbone = GraphBackbone(weights, config, num_blocks, BLOCK_SIZE, run, device, dtype, weight_type)
        graph_engine = GraphEngine(config, embedding, graph_backbone, graph_depth, max_streams)
        return Engines(config, embedding, graph_backbone, graph_depth, graph_engine)
    depth: Depth
    backbone: Backbone
    if name == "compiled":
        depth, backbone = CompiledDepth(weights, config, embedding), CompiledBackbone(weights, config, num_blocks)
    else:
        depth = TorchDepth(weights, config, embedding)
        backbone = TorchBackbone(weights, config, num_blocks, BLOCK_SIZE, device, dtype)
    return Engines(config, embedding, backbone, depth, TwoPart(config, embedding, backbone, depth, max_streams))


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


def random_prompts(config: ModelConfig, streams: int, text: int, audio: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """Return prompts [streams, text + audio, codebooks + 1] of random text positions and then audio positions."""
    rng = np.random.default_rng([streams, seed])
    prompts = np.full((streams, text + audio, config.frame_columns), MASKED, np.int32)
    prompts[:, :text, -1] = rng.integers(0, config.text_vocab_size, (streams, text))
    prompts[:, text:, :-1] = rng.integers(0, config.audio_codes, (streams, audio, config.audio_num_codebooks))
    return prompts


class RandomWeights(Mapping[str, torch.Tensor]):
    """Weights at the scales of a trained network. Each tensor is made on the device when it is read, the same every
    time, so that 16 GB lie neither on a disk nor twice in memory."""

    def __init__(self, config: ModelConfig, device: str, dtype: torch.dtype) -> None:
        self.shapes = tensor_shapes(config)
        self._device, self._dtype = device, dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self.shapes[name]
        if name.endswith("scale"):
            return torch.ones(shape, device=self._device, dtype=self._dtype)
        rng = torch.Generator(self._device).manual_seed(crc32(name.encode()))
        tensor = torch.randn(shape, generator=rng, device=self._device, dtype=self._dtype)
        inputs = shape[1] if name == "audio_head" else shape[-1]
        return tensor.mul_(0.2 if "embeddings" in name else inputs**-0.5 * (2 if "head" in name else 1))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
