"""The decode stage: frames → 24 kHz audio, with a slot of Mimi's streaming state for each stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from moshi.models import MimiModel

from misotts.config import FRAME_SAMPLES
from misotts.decode.rows import DecoderRows
from misotts.slots import in_order, rounds

MAX_FRAMES = 25
"""Frames of a stream in one call; a longer piece is cut."""

TAIL_SAMPLES = 480
"""The last 20 ms of speech tell whether it has died away or would be chopped."""

TAIL_LOUDNESS = 0.01
"""RMS above which it would be: -40 dB of full scale."""


@dataclass(frozen=True)
class Codes:
    """A piece of one stream."""

    slot: int
    first: bool
    """Whether the stream starts here, so that the slot's state is reset."""
    codes: np.ndarray
    """int32 [frames, codebooks]; may have no frames. A last frame of zeros is the end of speech."""


class Decoder:
    """Streams of codes → streams of audio, any mix of streams and lengths in one call.

    Each stream's audio is what it would be alone, up to 1e-6 (a batched product rounds differently).

    The end-of-speech frame is not speech, but Mimi makes of it how the last sound dies away. It is heard only where the
    speech before it ends loud and so would be chopped; then it counts as a frame of the utterance.
    """

    def __init__(self, mimi: MimiModel, slots: int) -> None:
        self._rows = DecoderRows(mimi, slots, MAX_FRAMES)
        self._ends_loud = np.zeros(slots, bool)

    def decode(self, pieces: Sequence[Codes]) -> list[np.ndarray]:
        """Return each piece's audio, float32 [frames * 1920], less an end frame that is not heard.

        At most one piece per slot.
        """
        return in_order(self.decode_each(pieces))

    @torch.inference_mode()
    def decode_each(self, pieces: Sequence[Codes]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each piece's number and audio as soon as it is done: a stream's first frame does not wait for the many
        that others have."""
        assert len({p.slot for p in pieces}) == len(pieces), "two pieces of one stream in one call"
        first = [p.slot for p in pieces if p.first]
        self._rows.reset(first)
        self._ends_loud[first] = False
        lengths = [len(p.codes) for p in pieces]
        audio = [np.empty(length * FRAME_SAMPLES, np.float32) for length in lengths]
        for start, end, members, done in rounds(lengths):
            for begin in range(start, end, MAX_FRAMES):
                stop = min(begin + MAX_FRAMES, end)
                out = self._rows.decode({pieces[m].slot: pieces[m].codes[begin:stop] for m in members})
                for member in members:
                    audio[member][begin * FRAME_SAMPLES : stop * FRAME_SAMPLES] = out[pieces[member].slot]
            for number in done:
                yield number, self._without_silent_end(pieces[number], audio[number])

    def _without_silent_end(self, piece: Codes, audio: np.ndarray) -> np.ndarray:
        ends = len(piece.codes) > 0 and not piece.codes[-1].any()
        speech = audio[:-FRAME_SAMPLES] if ends else audio
        if len(speech):
            self._ends_loud[piece.slot] = np.sqrt(np.mean(speech[-TAIL_SAMPLES:] ** 2)) > TAIL_LOUDNESS
        return audio if ends and self._ends_loud[piece.slot] else speech
