import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # Triton reads it when it is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "triton_python_backend_utils" not in sys.modules:
    # Triton's own module exists only inside its Python stub; the stages' code can be imported without it.
    pretended = ModuleType("triton_python_backend_utils")
    pretended.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1  # type: ignore[attr-defined]
    pretended.get_input_tensor_by_name = lambda request, name: request.get(name)  # type: ignore[attr-defined]
    sys.modules["triton_python_backend_utils"] = pretended

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
