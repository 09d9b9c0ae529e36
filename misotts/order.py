"""An order: a checked request as the prompt stage sends it to the generate stage.

The prompt's rows cross as the tensor FRAMES, everything else as one JSON object in the tensor ORDER, so that a new
parameter is one field here and nothing in Triton's configurations.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]
"""[positions, codebooks + 1]: rows of a prompt. A text position uses the last column alone, an audio position all
others; unused columns hold `MASKED`."""


@dataclass(frozen=True)
class Order:
    """The parameters of one utterance.

    Attributes:
        frames: the prompt.
        max_frames: most frames to generate.
        seed: any int64; the same seed makes the same utterance again.
        temperature: 0 is greedy.
        top_k: from 1 to the number of audio codes.
        chunk_frames: frames of every chunk; 0 leaves the size to the server.
        lead_ms: how far generation may be ahead of playback; 0: as far as free capacity allows; None: the server's.
        guarded: True if `max_frames` follows the text because the request sets no MAX_AUDIO_MS.
        session: owner and name of the conversation that the utterance continues; None: none.
        heard_ms: how much of the conversation's last utterance was heard; None: all that was delivered.
        session_end: 1: the conversation is forgotten when the utterance ends, or at once if `frames` is empty.
        voice: positions of the voice, the first of `frames`.
        ticket: number of the private call, by which the gateway tells how much of it has been written; 0: none.
        deadline: `time.monotonic()` seconds at which the utterance is ended; None: no limit.
    """

    frames: Rows
    max_frames: int
    seed: int
    temperature: float = 0.9
    top_k: int = 50
    chunk_frames: int = 0
    lead_ms: int | None = None
    guarded: bool = False
    session: str | None = None
    heard_ms: int | None = None
    session_end: int = 0
    voice: int = 0
    ticket: int = 0
    deadline: float | None = None

    def parameters(self) -> str:
        """Return the content of the tensor ORDER: all fields but `frames`, as JSON."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self) if each.name != "frames"})

    @classmethod
    def read(cls, frames: Rows, parameters: str) -> Order:
        """Return the order that `frames` and `parameters` describe; the inverse of `parameters`.

        Raises:
            TypeError, ValueError: the parameters are not those of an order.
        """
        return cls(frames=frames, **json.loads(parameters))
