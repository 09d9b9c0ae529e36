"""The graphs captured and replayed on a pretended GPU (plain operations): frames, waits, what is replayed."""

from __future__ import annotations

import numpy as np
import torch

from demo.model import make_weights
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine, bucket_shapes
from misotts.engines.graph.operations import operations
from misotts.engines.interface import Limits
from misotts.generate.loop import Generator
from tests.engines.test_pretend_cuda import FRAMES, TINY, make_generator, speak
from tests.support.pretend_cuda import PretendCuda, pretend_cuda

__all__ = ["pretend_cuda"]


def make_captured() -> Generator:
    torch.manual_seed(0)
    weights, plain = make_weights(TINY), operations("plain")
    embedding = Embedding(weights, TINY, "cuda")
    depth = GraphDepth(weights, TINY, embedding, plain, "cuda", torch.float32)
    backbone = GraphBackbone(weights, TINY, 40, 32, plain, "cuda", torch.float32)
    engine = GraphEngine(TINY, embedding, backbone, depth, max_streams=3)
    return Generator(TINY, engine, Limits(max_streams=3, step_positions=64))


def test_replayed_frames_are_the_torch_engines(pretend_cuda: PretendCuda) -> None:
    expected = speak(make_generator("cpu", torch.float32))
    generator = make_captured()
    assert len(pretend_cuda.graphs) == len(bucket_shapes(3, TINY.audio_codes))
    pretend_cuda.waits.clear()
    found = speak(generator)
    assert [len(codes) for codes in found] == [FRAMES] * 4
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert pretend_cuda.waits == [], "a step waited for the device"
    assert sum(graph.replays for graph in pretend_cuda.graphs) >= FRAMES
    assert all(graph.replays for graph in pretend_cuda.graphs[:-1]), "a bucket was not used"
