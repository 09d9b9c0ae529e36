"""docs/coming-from.md says of each field what the code does with it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GATEWAY = ROOT / "gateway" / "misotts_gateway"
SECTIONS = re.split(r"^## (\w+).*$", (ROOT / "docs" / "coming-from.md").read_text(), flags=re.MULTILINE)[1:]
ROWS = [
    (api.lower(), *row)
    for api, section in zip(SECTIONS[::2], SECTIONS[1::2], strict=True)
    for row in re.findall(r"^\| `(\w+)` \| (honoured|ignored|refused) \|", section, re.MULTILINE)
]


def read_names(api: str) -> set[str]:
    """Return the names of the fields and parameters that an API's code asks for."""
    source = "".join(file.read_text() for file in (GATEWAY / api).glob("*.py"))
    return set(re.findall(r"(?:take|required|one_of|_one_of|get)\(\s*\"(\w+)\"", source))


def test_every_api_has_a_table() -> None:
    assert {row[0] for row in ROWS} == {"openai", "cartesia", "elevenlabs", "deepgram"}


@pytest.mark.parametrize(("api", "field", "fate"), ROWS)
def test_a_field_is_read_where_the_table_says_so(api: str, field: str, fate: str) -> None:
    assert (field in read_names(api)) == (fate != "ignored")
