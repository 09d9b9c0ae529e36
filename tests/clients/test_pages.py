"""The pages of docs/clients show the files that tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "clients").glob("*.md"))
TESTS = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py") if file != Path(__file__))
SNIPPET = re.compile(
    r"^\[(examples/[^\]]+)\]\(\.\./\.\./examples/[^)]+\):\n\n```\w+\n(.*?\n)```$", re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_a_file_that_a_test_runs(page: Path) -> None:
    text = page.read_text()
    shown = dict(SNIPPET.findall(text))
    assert len(shown) == text.count("\n```") // 2 > 0
    for name, snippet in shown.items():
        assert snippet == (ROOT / name).read_text()
        assert f'"{Path(name).name}"' in TESTS


def test_every_example_is_shown() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert all(f"[examples/{file.name}]" in text for file in (ROOT / "examples").iterdir() if file.is_file())
