"""What a chunk carries beside its data from stage to stage.

It is one tensor: every tensor of a message costs time in three processes, and a STRING more than numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_NUMBERS = struct.Struct("<6q")


@dataclass(frozen=True)
class Header:
    """The tensor HEADER, uint8 [48 + bytes of `finish`]."""

    stream: int
    """The stream's number."""
    slot: int
    index: int
    """The chunk's number in its stream."""
    seed: int
    admission: int
    """See `Utterance.admission`."""
    session_turns: int
    """See `Utterance.session_turns`."""
    finish: str = ""
    """Not empty in the last chunk."""

    def pack(self) -> npt.NDArray[np.uint8]:
        place = self.stream, self.slot, self.index
        numbers = _NUMBERS.pack(*place, self.seed, self.admission, self.session_turns)
        return np.frombuffer(numbers + self.finish.encode(), np.uint8)

    @classmethod
    def unpack(cls, packed: npt.NDArray[np.uint8]) -> Header:
        """Return the header that `pack` made.

        Raises:
            struct.error, ValueError: the bytes are not those of a header.
        """
        raw = packed.tobytes()
        stream, slot, index, seed, admission, session_turns = _NUMBERS.unpack_from(raw)
        return cls(stream, slot, index, seed, admission, session_turns, raw[_NUMBERS.size :].decode())
