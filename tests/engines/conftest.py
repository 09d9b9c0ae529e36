from pathlib import Path

import numpy as np
import pytest

from misotts.engines.interface import Limits
from tests.support.emulated_gpu import emulated_gpu as emulated_gpu
from tests.support.utterances import PROMPTS, Parts, eager_parts, speak


@pytest.fixture(scope="session")
def parts(demo_folder: Path) -> Parts:
    return eager_parts(demo_folder)


@pytest.fixture(scope="session")
def alone(parts: Parts) -> list[np.ndarray]:
    """The frames of each utterance of `tests.support.utterances`, generated alone by the eager engine."""
    return [speak(parts, [number], Limits())[0] for number in range(len(PROMPTS))]
