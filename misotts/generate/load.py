"""A model folder → the generate stage, its engines and its KV pool."""

from __future__ import annotations

from pathlib import Path

from misotts.config import ModelConfig
from misotts.engines.interface import Limits
from misotts.engines.load import load_engine
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
    """Load the engine and the stage around it; see `load_engine`."""
    engine = load_engine(folder, config, engines, limits, kv_memory, device)
    return Generator(config, engine, limits, first_chunk_frames)
