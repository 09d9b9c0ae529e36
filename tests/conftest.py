import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # Triton reads it when it is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from demo.model import make_model

# The same examples in every run, and no verdict on how quick a busy machine is.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Two cores: torch's threads and those of the test runner fight for them otherwise.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The demo model, made once per checkout."""
    folder = ROOT / "models" / "demo"
    if not folder.exists():
        make_model(folder)
    return folder


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """6 s of speech at 24 kHz, float32 [144000]: whole frames."""
    return soundfile.read(ROOT / "tests" / "speech" / "joe.flac", dtype="float32")[0]
