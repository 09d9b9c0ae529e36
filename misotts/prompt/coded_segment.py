"""A segment of context with its codes instead of audio: the library takes it, the wire has no form for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from misotts.config import FRAME_SAMPLES
from misotts_client.request import Segment


@dataclass(frozen=True, eq=False)
class CodedSegment(Segment):
    """An earlier part of the conversation that needs no encoding, such as speech of the model itself.

    Attributes:
        text: the words of the clip.
        speaker: 0 to 99.
        codes: int32 [frames, codebooks], without a frame of zeros at the end.
        audio: silence of the same length.
    """

    codes: npt.NDArray[np.int32]

    def __init__(self, text: str, speaker: int, codes: npt.NDArray[np.int32]) -> None:
        super().__init__(text, speaker, np.broadcast_to(np.float32(0), len(codes) * FRAME_SAMPLES))
        object.__setattr__(self, "codes", codes)
