"""The captured graphs on a GPU. These tests have never run."""

from pathlib import Path

import numpy as np
import pytest
import torch

from misotts.config import ModelConfig
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine
from misotts.engines.graph.operations import operations
from misotts.engines.interface import Limits
from misotts.engines.load import load_engine
from misotts.engines.table import EngineChoice, KvType, WeightType
from misotts.generate.loop import Generator
from misotts.model.checkpoint import Checkpoint
from tests.support.utterances import PROMPTS, Parts, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def test_captured_float32_frames_are_the_cpus(parts: Parts, alone: list[np.ndarray], demo_folder: Path) -> None:
    """Kernels, capture and replay together. The last bits differ from the CPU's, which may change a code and, with it,
    the rest of an utterance."""
    config, weights = parts.config, Checkpoint(demo_folder, parts.config)
    run_by, limits = operations("fused"), Limits(max_streams=8)
    embedding = Embedding(weights, config, "cuda")
    backbone = GraphBackbone(weights, config, 200, 32, run_by, "cuda", torch.float32)
    depth = GraphDepth(weights, config, embedding, run_by)
    engine = GraphEngine(config, embedding, backbone, depth, limits.max_streams)
    frames = run(Generator(config, engine, limits), parts, range(len(PROMPTS)))
    assert [np.array_equal(a[0], b[0]) for a, b in zip(alone, frames, strict=True)] == [True] * len(PROMPTS)
    assert np.mean([np.array_equal(a, b) for a, b in zip(alone, frames, strict=True)]) >= 0.75


@pytest.mark.parametrize(("weights", "kv_type"), [("full", "full"), ("int8", "full"), ("fp8", "fp8")])
def test_as_it_is_served(demo_folder: Path, parts: Parts, weights: WeightType, kv_type: KvType) -> None:
    """In bfloat16, with planned memory and captured graphs, all utterances end, and a greedy one repeats."""
    config, limits = ModelConfig.load(demo_folder), Limits(max_streams=8)
    choice = EngineChoice("graph", weights, kv_type)
    spoken = []
    for _ in range(2):
        generator = Generator(config, load_engine(demo_folder, config, limits, choice, device="cuda"), limits)
        spoken.append(run(generator, parts, range(len(PROMPTS))))
        generator.close()
    assert [len(frames) for frames in spoken[0]] == [len(frames) for frames in spoken[1]]
    assert np.array_equal(spoken[0][1], spoken[1][1])  # greedy
