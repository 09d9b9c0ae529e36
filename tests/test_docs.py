"""The documents' links lead somewhere, and references to definitions lead to their lines."""

import re
from pathlib import Path

import pytest

from tests.support.references import with_lines

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("client/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


def test_architecture_names_the_lines_of_definitions() -> None:
    page = ROOT / "docs" / "architecture.md"
    assert with_lines(page) == page.read_text(), "renew the lines with: make docs"
