"""A stand-in for Triton, and gateways before it."""

from collections.abc import Iterator

import pytest

from misotts_client import Client
from tests.support.fake_triton import FakeTriton, running
from tests.support.gateway import RunningGateway, running_gateway


@pytest.fixture(scope="session")
def shared_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTriton]:
    """A stand-in on a unix socket, as the private Triton is."""
    with running(f"{tmp_path_factory.mktemp('run')}/grpc:1") as triton:
        yield triton


@pytest.fixture(scope="session")
def gateway(shared_triton: FakeTriton) -> Iterator[RunningGateway]:
    """The gateway that most tests share."""
    with running_gateway(shared_triton.url, "--streams-per-address=40") as running:
        yield running


@pytest.fixture
def triton(shared_triton: FakeTriton, gateway: RunningGateway) -> FakeTriton:
    shared_triton.reset()
    return shared_triton


@pytest.fixture
def client(gateway: RunningGateway, triton: FakeTriton) -> Iterator[Client]:
    with Client(gateway.url) as connected:
        yield connected
