import difflib
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # Triton reads this at its first import
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "triton_python_backend_utils" not in sys.modules:
    # The real module exists only inside Triton's Python stub.
    backend = ModuleType("triton_python_backend_utils")
    backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1  # type: ignore[attr-defined]
    backend.get_input_tensor_by_name = lambda request, name: request.get(name)  # type: ignore[attr-defined]
    sys.modules["triton_python_backend_utils"] = backend

from demo.model import make_random
from misotts.config import ModelConfig
from tests.support.clips import folder_with_ann, tone, write

# Every run tests the same examples, and a busy machine fails no deadline.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# The objects of all tests are many, and looking for garbage among them at the usual rate takes a sixth of the time.
gc.set_threshold(20_000, 20, 50)

# More threads of torch would compete with the test runner for two cores.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The model of random weights, which is made once per checkout: its speech is noise and never ends."""
    folder = ROOT / "models" / "random"
    if not folder.exists():
        make_random(folder)
    return folder


@pytest.fixture(scope="session")
def config(demo_folder: Path) -> ModelConfig:
    return ModelConfig.load(demo_folder)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """6 s of speech at 24 kHz, a whole number of frames, float32 [144000]."""
    return soundfile.read(ROOT / "tests" / "speech" / "joe.flac", dtype="float32")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of voices with one voice, `ann`."""
    return folder_with_ann(tmp_path / "voices")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A clip of 2 s that may become a voice."""
    return write(tmp_path / "new.wav", tone(2, level=0.1))


MESSAGES = ROOT / "tests" / "messages.json"


def read_messages() -> dict[str, dict[str, str | list[str]]]:
    """Return the pinned texts by test name and label; a text of several lines is a list."""
    return json.loads(MESSAGES.read_text(encoding="utf-8"))


def write_messages(messages: dict[str, dict[str, str | list[str]]]) -> None:
    text = json.dumps(messages, indent=1, sort_keys=True, ensure_ascii=False)
    MESSAGES.write_text(text + "\n", encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-messages", action="store_true", help="write the texts of `pinned_text` to their file")


@pytest.hookimpl(tryfirst=True)  # before -m and -k deselect items
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("renew_messages") and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        users = {item.name for item in items if "pinned_text" in getattr(item, "fixturenames", ())}
        write_messages({name: texts for name, texts in read_messages().items() if name in users})


@pytest.fixture
def pinned_text(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Return `pinned_text(text, label=number)`, which compares `text` with this test's in tests/messages.json.

    A test replaces what varies (paths, times, ports) in `text` first. `make messages` runs all tests and renews the
    file; `pytest --renew-messages tests/some_test.py` renews the texts of these tests only.
    """
    renews, pinned = request.config.getoption("renew_messages"), read_messages().get(request.node.name, {})
    seen: dict[str, str | list[str]] = {}

    def compare(text: str, label: str | None = None) -> None:
        lines = text.split("\n")
        label = label or str(len(seen) + 1)
        assert label not in seen, f"the label {label!r} is used twice"
        seen[label] = lines if len(lines) > 1 else text
        known = pinned.get(label, [])
        known_lines = [known] if isinstance(known, str) else known
        if known_lines != lines and not renews:
            diff = difflib.unified_diff(known_lines, lines, "tests/messages.json", "this run", lineterm="")
            pytest.fail(f"the text {label!r} differs; `make messages` renews it\n" + "\n".join(diff), pytrace=False)

    yield compare
    if renews and seen:
        write_messages(read_messages() | {request.node.name: seen})
