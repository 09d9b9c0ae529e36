"""Which chunks become responses, and which acknowledgements end a stream in `generate`."""

from typing import Any

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES
from misotts.serve.stage.watermark import Deliveries
from misotts.slots import Piece

FAILED = "error: INTERNAL: the decode stage failed"
FIRST = Piece(1, True, np.zeros(0, np.float32))
NEXT = Piece(1, False, np.zeros(0, np.float32))


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([(FIRST, 1, ""), (NEXT, 2, ""), (NEXT, 0, "eos")], ["0", "1", "3"], id="a stream to its end"),
        pytest.param([(FIRST, 0, ""), (NEXT, 1, "")], ["-", "0"], id="held back"),
        pytest.param([(None, 0, "")], ["-"], id="a probe without a slot"),
        pytest.param([(None, 0, "length")], ["0"], id="the end of a stream without a slot"),
        pytest.param([(None, 0, FAILED)], ["0 failed"], id="a refusal"),
        pytest.param([(FIRST, 1, ""), (NEXT, 0, FAILED)], ["0", "1 failed"], id="an error"),
        pytest.param(
            [(FIRST, 1, FAILED), (NEXT, 1, ""), (NEXT, 1, "eos")],
            ["0 failed", "- failed", "- failed"],
            id="after an error the caller gets nothing more",
        ),
        pytest.param([(FIRST, 2, FAILED), (FIRST, 1, "")], ["0 failed", "0"], id="the slot's next stream starts anew"),
    ],
)
def test_what_is_sent_and_acknowledged(chunks: list[tuple[Piece[Any] | None, int, str]], expected: list[str]) -> None:
    """Chunks are (piece, frames, finish); results are the number of the first frame sent, or "-", and "failed"."""
    deliveries = Deliveries(slots=2)
    found = [deliveries.add(piece, frames * FRAME_SAMPLES, finish) for piece, frames, finish in chunks]
    assert [f"{d.frame if d.sent else '-'}{' failed' * d.failed}" for d in found] == expected
