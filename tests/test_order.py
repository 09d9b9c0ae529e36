"""An order crosses the stages as two tensors."""

from dataclasses import asdict

import numpy as np
import pytest

from misotts.order import Order


def test_an_order_is_read_back_as_it_was() -> None:
    order = Order(
        np.ones((3, 5), np.int32),
        7,
        seed=-(2**63),
        temperature=0.1,
        top_k=3,
        chunk_frames=2,
        lead_ms=0,
        ticket=2**48,
        deadline=1 / 3,
    )
    assert asdict(Order.read(order.frames, order.parameters())) | {"frames": None} == asdict(order) | {"frames": None}


@pytest.mark.parametrize("parameters", ["", "{}", '{"max_frames": 1, "seed": 1, "volume": 11}'])
def test_parameters_of_no_order_are_refused(parameters: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        Order.read(np.ones((3, 5), np.int32), parameters)
