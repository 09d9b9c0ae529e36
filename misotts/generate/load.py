"""A model folder → the generate stage, its engines and its KV pool."""

from __future__ import annotations

from pathlib import Path

from misotts.config import ModelConfig
from misotts.engines.interface import Limits
from misotts.engines.load import load_engines
from misotts.engines.table import EngineChoice
from misotts.generate.loop import Generator


def load_generator(
    folder: Path,
    config: ModelConfig,
    limits: Limits,
    first_chunk_frames: int = 1,
    kv_memory: int | None = None,
    device: str = "cpu",
    engines: EngineChoice = EngineChoice(),
) -> Generator:
    """Load the engines and the stage around them; see `load_engines`."""
    embedding, backbone, depth = load_engines(folder, config, engines, limits, kv_memory, device)
    return Generator(config, embedding, backbone, depth, limits, first_chunk_frames)
