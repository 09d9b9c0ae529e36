"""The watermark stage: SilentCipher's embedding network over streams of audio.

The published code marks whole clips. Here each stream keeps the state that the same arithmetic needs:

    24 kHz ─▶ network's rate ─▶ STFT columns ─▶ network, column by column ─▶ each column's mark ─▶ 24 kHz ─▶ +

Only the mark is resampled to 24 kHz; it is added to the original samples. `Timing.hold_back` says when a frame goes
out. A column's mark is fixed as a whole when the first frame that it changes goes out, so that the mark fades in and
out and never jumps. If it is not known by then, the column stays unmarked, or, where the hold-back grows at a stream's
start, gets an early mark: the one that it would have if the stream ended there. Two things differ from the published
code, which has the whole utterance before it starts: the loudness that scales the network's input is that of the audio
so far, and batch normalisation uses its trained statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from misotts.config import FRAME_SAMPLES, SAMPLE_RATE
from misotts.hold_back import GRADUAL, HoldBack
from misotts.slots import Piece, in_order, rounds, starting_slots
from misotts.watermark.key import REFERENCE_KEY
from misotts.watermark.mark_network import MarkNetwork
from misotts.watermark.resample import Resampler, ResampleStream
from misotts.watermark.silentcipher import SPEECH_POWER, SilentCipherConfig

LOUDNESS_PRIOR_S = 0.25
"""A stream starts as if this much speech of `SPEECH_POWER` had come before it."""

POWER_FLOOR = 1e-8

Samples = npt.NDArray[np.float32]


class Timing:
    """When frames go out, and which columns' marks are known by then. STFT columns are centred on multiples of the hop,
    the first one on the stream's start."""

    def __init__(self, config: SilentCipherConfig) -> None:
        self.config = config
        self.up, self.down = Resampler(SAMPLE_RATE, config.SR), Resampler(config.SR, SAMPLE_RATE)
        given = config.delay_frames
        self.hold_back = HoldBack(self._full_delay(), GRADUAL) if given is None else HoldBack(given)
        self.early = self._early() if given is None else {}
        """The columns, first and end, that get an early mark when so many frames have arrived."""

    def marked(self, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """True for each column with a mark that is known when the first frame that it changes goes out."""
        arrived = np.array([self.hold_back.arrived(frame) for frame in self._first_frames(columns)], np.int64)
        late = columns >= self.up.known(arrived * FRAME_SAMPLES) // self.config.HOP_LENGTH - self.config.columns_ahead
        return (columns >= 0) & ~late

    def flush_samples(self) -> int:
        """Number of samples of silence at 24 kHz after which the mark of a stream's last sample is known."""
        hops = (self.config.columns_ahead + 3) * self.config.HOP_LENGTH
        return hops * SAMPLE_RATE // self.config.SR + 2 * self.up.reach + FRAME_SAMPLES

    def _first_frames(self, columns: npt.NDArray[np.int64]) -> list[int]:
        """Return the number of the first frame that each column changes."""
        begins = self.down.touched((columns - 1) * self.config.HOP_LENGTH)  # negative for a stream's first columns
        frames: list[int] = (np.maximum(begins, 0) // FRAME_SAMPLES).tolist()
        return frames

    def _full_delay(self) -> int:
        """Return the least number of frames that must be held back for every column's mark to be known."""
        frame = FRAME_SAMPLES * self.config.SR // SAMPLE_RATE  # columns until a frame and a column coincide again
        self.hold_back = HoldBack()
        while not self.marked(np.arange(frame)).all():
            self.hold_back = HoldBack(self.hold_back.frames + 1)
        return self.hold_back.frames

    def _early(self) -> dict[int, tuple[int, int]]:
        """See `early`. The columns of each frame that have no known mark are its last ones."""
        most = GRADUAL * self.hold_back.frames * FRAME_SAMPLES * self.config.SR // SAMPLE_RATE // self.config.HOP_LENGTH
        columns = np.arange(most)
        early: dict[int, tuple[int, int]] = {}
        for column, frame, known in zip(columns, self._first_frames(columns), self.marked(columns), strict=True):
            if not known:
                arrived = self.hold_back.arrived(frame)
                early[arrived] = early.get(arrived, (int(column), 0))[0], int(column) + 1
        return early


def hold_back(folder: Path) -> HoldBack:
    """Return what the watermark of the model in `folder` holds back."""
    return Timing(SilentCipherConfig.load(Path(folder) / "silentcipher")).hold_back


class Watermarker:
    """Marks any mix of streams and lengths in one call.

    The result does not depend on how a stream is cut into pieces, up to 1e-6. It consists of whole frames.
    """

    def __init__(self, folder: Path, slots: int, key: bytes = REFERENCE_KEY, device: str = "cpu") -> None:
        """Read `folder/silentcipher`. `key` is the five bytes that every stream carries."""
        self._network = MarkNetwork(Path(folder) / "silentcipher", key, slots, device)
        self._timing = Timing(self._network.config)
        self._streams = [_Stream(self._timing) for _ in range(slots)]

    def mark(self, pieces: Sequence[Piece[np.float32]]) -> list[Samples]:
        """Return the frames that each piece completes, float32 [frames * 1920]. At most one piece per slot."""
        return in_order(self.mark_each(pieces))

    @torch.inference_mode()
    def mark_each(self, pieces: Sequence[Piece[np.float32]]) -> Iterator[tuple[int, Samples]]:
        """Yield each piece's number and the frames it completes once they are known, so that a short piece does not
        wait for long ones."""
        streams, early = self._push(pieces)
        self._mark_early(early)
        windows = [stream.take_windows() for stream in streams]
        for start, end, members, done in rounds([len(each) for each, _ in windows]):
            if members:
                marks = self._network.marks(
                    slots=[pieces[m].slot for m in members],
                    windows=np.stack([windows[m][0][start:end] for m in members]),
                    gains=np.stack([windows[m][1][start:end] for m in members]),
                )
                for member, mark in zip(members, marks, strict=True):
                    streams[member].add_marks(mark)
            for number in done:
                yield number, streams[number].take(pieces[number].last)

    def _push(self, pieces: Sequence[Piece[np.float32]]) -> tuple[list[_Stream], list[_Early]]:
        """Append each piece to its stream; return the streams, and the columns that get an early mark."""
        first = starting_slots(pieces)
        self._network.reset(first)
        for slot in first:
            self._streams[slot] = _Stream(self._timing)
        streams = [self._streams[piece.slot] for piece in pieces]
        early = []
        for stream, piece in zip(streams, pieces, strict=True):
            early += [_Early(piece.slot, stream, *found) for found in stream.push(piece.data, piece.last)]
        return streams, early

    def _mark_early(self, early: list[_Early]) -> None:
        """Compute early marks in one call, from the state before the pieces."""
        if not early:
            return
        columns = max(each.end - each.begin for each in early)  # silence after a row's own columns does not change them
        windows = np.zeros((len(early), columns, self._network.config.N_FFT), np.float32)
        gains = np.ones((len(early), columns), np.float32)
        for row, each in enumerate(early):
            audible = min(len(each.windows), columns)
            windows[row, :audible], gains[row, :audible] = each.windows[:audible], each.gains[:audible]
        marks = self._network.marks([each.slot for each in early], windows, gains, keep=False)
        for each, mark in zip(early, marks, strict=True):
            each.stream.add_early_marks(each.first, mark[each.first - each.begin : each.end - each.begin])


@dataclass(frozen=True)
class _Early:
    """Columns of a stream that get an early mark."""

    slot: int
    stream: _Stream
    begin: int
    """The column whose mark is the next one of the stream."""
    first: int
    end: int
    """The first of the columns with an early mark, and the one after the last."""
    windows: Samples
    gains: Samples
    """As in `MarkNetwork.marks`, from the first column that has no state yet to the end of the audio so far."""


class _Stream:
    """One stream's buffers, on the host. Times are sample counts from the stream's start."""

    def __init__(self, timing: Timing) -> None:
        self._timing, self._hop = timing, timing.config.HOP_LENGTH
        self._arrived = 0  # frames
        self._clean = np.zeros(0, np.float32)  # 24 kHz, samples that have not gone out
        self._up = ResampleStream(timing.up)
        # The first column reaches half a window before the stream's start.
        self._window = np.zeros(self._hop, np.float32)
        self._counted = int(LOUDNESS_PRIOR_S * timing.config.SR)
        self._power = SPEECH_POWER * self._counted
        # The network's first marks belong to columns before column 0 and are dropped.
        self._column = -timing.config.columns_ahead
        self._early_end = 0  # the end of the columns that have early marks
        # The network's rate, from the first sample that the resampling of what has not gone out reads.
        self._mark, self._mark_at = np.zeros(0, np.float32), -timing.down.reach

    def push(self, samples: Samples, last: bool) -> list[tuple[int, int, int, Samples, Samples]]:
        """Append frames; return what each group of early marks needs: see `_Early`."""
        self._clean = np.concatenate([self._clean, samples])
        before, self._arrived = self._arrived, self._arrived + len(samples) // FRAME_SAMPLES
        found, done = [], 0
        for arrived in [each for each in self._timing.early if before < each <= self._arrived]:
            upto = (arrived - before) * FRAME_SAMPLES
            self._push(samples[done:upto])
            first, self._early_end = self._timing.early[arrived]
            found.append((self._column, first, self._early_end, *self._if_it_ended_here()))
            done = upto
        samples = samples[done:]
        if last:  # after this silence every mark is known
            samples = np.concatenate([samples, np.zeros(self._timing.flush_samples(), np.float32)])
        self._push(samples)
        return found

    def _push(self, samples: Samples) -> None:
        self._window = np.concatenate([self._window, self._up.push(samples)])

    def _if_it_ended_here(self) -> tuple[Samples, Samples]:
        """Return all windows that contain audio, and their gains."""
        up, ended = self._timing.up, copy(self)
        ended._up = copy(self._up)
        ended._push(np.zeros(2 * up.reach + up.in_block, np.float32))  # what follows is zero without being resampled
        ended._window = np.concatenate([ended._window, np.zeros(2 * self._hop, np.float32)])
        return ended.take_windows()

    def take_windows(self) -> tuple[Samples, Samples]:
        """Return the complete STFT windows, float32 [columns, 2 * hop], and the gain of each, which brings the audio up
        to the window's end to `SPEECH_POWER`."""
        hop = self._hop
        columns = max(len(self._window) // hop - 1, 0)
        windows = np.zeros((0, 2 * hop), np.float32)
        if columns:
            windows = np.lib.stride_tricks.sliding_window_view(self._window, 2 * hop)[::hop][:columns]
        new = (windows[:, hop:].astype(np.float64) ** 2).sum(axis=1)
        power = self._power + new.cumsum()
        counted = self._counted + hop * np.arange(1, columns + 1)
        if columns:
            self._power, self._counted = float(power[-1]), int(counted[-1])
        gains = np.sqrt(SPEECH_POWER / np.maximum(power / counted, POWER_FLOOR)).astype(np.float32)
        self._window = self._window[columns * hop :]
        return windows, gains

    def add_marks(self, marks: Samples) -> None:
        """Overlap-add the next columns' marks, float32 [columns, 2 * hop]."""
        first = self._column
        self._column += len(marks)
        columns = np.arange(first, self._column)
        marked = self._timing.marked(columns)
        if self._timing.early:  # the stream has ended before an early mark was due
            marked |= columns >= self._early_end
        self._add(first, marks * marked[:, None])

    def add_early_marks(self, first: int, marks: Samples) -> None:
        """Overlap-add marks from column `first` on; the next columns stay the same."""
        self._add(first, marks)

    def _add(self, first: int, marks: Samples) -> None:
        hop = self._hop
        added = np.zeros((len(marks) + 1) * hop, np.float32)
        added[:-hop] = marks[:, :hop].ravel()
        added[hop:] += marks[:, hop:].ravel()
        at = (first - 1) * hop - self._mark_at
        added, at = added[max(-at, 0) :], max(at, 0)
        missing = at + len(added) - len(self._mark)
        if missing > 0:
            self._mark = np.concatenate([self._mark, np.zeros(missing, np.float32)])
        self._mark[at : at + len(added)] += added

    def take(self, last: bool) -> Samples:
        """Return all frames with known marks; at the stream's end all frames."""
        held_back = 0 if last else self._arrived - self._timing.hold_back.gone(self._arrived)
        ready = len(self._clean) - held_back * FRAME_SAMPLES
        mark, read = self._timing.down.start(self._mark, ready)
        out = np.clip(self._clean[:ready] + mark, -1.0, 1.0)
        self._clean, self._mark, self._mark_at = self._clean[ready:], self._mark[read:], self._mark_at + read
        return out
