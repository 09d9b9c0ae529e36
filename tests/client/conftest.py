import asyncio
import inspect
from collections.abc import Iterator

import pytest

from tests.support.fake_triton import FakeTriton, running


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with running() as fake:
        yield fake


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    asyncio.run(test(**{name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}))
    return True
