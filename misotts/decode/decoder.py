"""The decode stage: Mimi turns frames of codes into 24 kHz audio, with one slot of streaming state for each stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from moshi.models.compression import MimiModel

from misotts.config import FRAME_SAMPLES
from misotts.decode.rows import DecoderRows
from misotts.slots import Piece, in_order, rounds, starting_slots

MAX_FRAMES = 25
"""Largest number of frames of a stream in one call; a longer piece is cut."""

TAIL_SAMPLES = 480
"""The last 20 ms of speech, which show whether it has faded out."""

TAIL_LOUDNESS = 0.01
"""RMS of the tail (-40 dB of full scale) above which speech would end abruptly."""


class Decoder:
    """Decodes any mix of streams and lengths in one call.

    Each stream's audio is what it would be if it were alone, up to 1e-6 (a batched product rounds differently).

    The end-of-speech frame is not speech, but Mimi decodes it to the fading of the last sound. It is returned only if
    the speech before it ends loud and so would end abruptly; then it counts as a frame of the utterance.
    """

    def __init__(self, mimi: MimiModel, slots: int) -> None:
        self._rows = DecoderRows(mimi, slots, MAX_FRAMES)
        self._ends_loud = np.zeros(slots, bool)

    def prepare(self) -> None:
        """Do on the device what the first calls would do, before the first caller comes."""
        self._rows.prepare()

    def decode(self, pieces: Sequence[Piece[np.int32]]) -> list[npt.NDArray[np.float32]]:
        """Return each piece's audio, float32 [frames * 1920], without a silent end frame.

        At most one piece per slot. Codes are int32 [frames, codebooks]; a last frame of zeros is the end of speech.
        """
        return in_order(self.decode_each(pieces))

    @torch.inference_mode()
    def decode_each(self, pieces: Sequence[Piece[np.int32]]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield each piece's number and audio once it is decoded, so that a short piece does not wait for long ones."""
        first = starting_slots(pieces)
        self._rows.reset(first)
        self._ends_loud[first] = False
        lengths = [len(piece.data) for piece in pieces]
        audio = [np.empty(length * FRAME_SAMPLES, np.float32) for length in lengths]
        for start, end, members, done in rounds(lengths):
            for begin in range(start, end, MAX_FRAMES):
                stop = min(begin + MAX_FRAMES, end)
                out = self._rows.decode({pieces[m].slot: pieces[m].data[begin:stop] for m in members})
                for member in members:
                    audio[member][begin * FRAME_SAMPLES : stop * FRAME_SAMPLES] = out[pieces[member].slot]
            for number in done:
                yield number, self._without_silent_end(pieces[number], audio[number])

    def _without_silent_end(self, piece: Piece[np.int32], audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        ends = len(piece.data) > 0 and not piece.data[-1].any()
        speech = audio[:-FRAME_SAMPLES] if ends else audio
        if len(speech):
            self._ends_loud[piece.slot] = np.sqrt(np.mean(speech[-TAIL_SAMPLES:] ** 2)) > TAIL_LOUDNESS
        return audio if ends and self._ends_loud[piece.slot] else speech
