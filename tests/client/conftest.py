from collections.abc import Iterator

import pytest

from tests.support.fake_triton import FakeTriton, running


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with running() as fake:
        yield fake
