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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from misotts.config import FRAME_SAMPLES, SAMPLE_RATE
from misotts.hold_back import GRADUAL, HoldBack
from misotts.slots import Piece, Scalar, in_order, rounds, starting_slots
from misotts.watermark.key import REFERENCE_KEY
from misotts.watermark.mark_network import MarkNetwork
from misotts.watermark.resample import Resampler, ResampleStream
from misotts.watermark.silentcipher import SilentCipherConfig

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
        self._marked = np.zeros(0, np.bool_)
        """`marked` of a stream's first columns."""

    def marked(self, first: int, end: int) -> npt.NDArray[np.bool_]:
        """True for each of the columns `first` to `end` with a mark that is known when the first frame that it changes
        goes out; bool [end - first]. `first` may be negative."""
        if end > len(self._marked):
            self._marked = self._known(np.arange(2 * end))
        if first >= 0:
            return self._marked[first:end]
        return np.concatenate([np.zeros(min(-first, end - first), np.bool_), self._marked[: max(end, 0)]])

    @cached_property
    def flush_samples(self) -> int:
        """Number of samples of silence at 24 kHz after which the mark of a stream's last sample is known."""
        hops = (self.config.columns_ahead + 3) * self.config.HOP_LENGTH
        return hops * SAMPLE_RATE // self.config.SR + 2 * self.up.reach + FRAME_SAMPLES

    def _known(self, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """See `marked`."""
        arrived = np.array([self.hold_back.arrived(frame) for frame in self._first_frames(columns)], np.int64)
        known = self.up.known(arrived * FRAME_SAMPLES) // self.config.HOP_LENGTH - self.config.columns_ahead
        return columns < known

    def _first_frames(self, columns: npt.NDArray[np.int64]) -> list[int]:
        """Return the number of the first frame that each column changes."""
        begins = self.down.touched((columns - 1) * self.config.HOP_LENGTH)  # negative for a stream's first columns
        frames: list[int] = (np.maximum(begins, 0) // FRAME_SAMPLES).tolist()
        return frames

    def _full_delay(self) -> int:
        """Return the least number of frames that must be held back for every column's mark to be known."""
        frame = FRAME_SAMPLES * self.config.SR // SAMPLE_RATE  # columns until a frame and a column coincide again
        self.hold_back = HoldBack()
        while not self._known(np.arange(frame)).all():
            self.hold_back = HoldBack(self.hold_back.frames + 1)
        return self.hold_back.frames

    def _early(self) -> dict[int, tuple[int, int]]:
        """See `early`. The columns of each frame that have no known mark are its last ones."""
        most = GRADUAL * self.hold_back.frames * FRAME_SAMPLES * self.config.SR // SAMPLE_RATE // self.config.HOP_LENGTH
        columns = np.arange(most)
        early: dict[int, tuple[int, int]] = {}
        for column, frame, known in zip(columns, self._first_frames(columns), self._known(columns), strict=True):
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

    def mark_each(self, pieces: Sequence[Piece[np.float32]]) -> Iterator[tuple[int, Samples]]:
        """Yield each piece's number and the frames it completes once they are known, so that a short piece does not
        wait for long ones."""
        streams, early = self._push(pieces)
        self._mark_early(early)
        taken = [stream.take_columns() for stream in streams]
        hop = self._network.config.HOP_LENGTH
        for start, end, members, done in rounds([columns.count for columns in taken]):
            if members:
                marks = self._network.marks(
                    slots=[pieces[m].slot for m in members],
                    audio=_stack([taken[m].audio[start * hop : (end + 1) * hop] for m in members]),
                    wanted=_stack([taken[m].wanted[start:end] for m in members]),
                )
                for member, mark in zip(members, marks, strict=True):
                    streams[member].add_marks(taken[member].first + start, mark)
            for number in done:
                yield number, streams[number].take(pieces[number].last)

    def _push(self, pieces: Sequence[Piece[np.float32]]) -> tuple[list[_Stream], list[_Early]]:
        """Append each piece to its stream; return the streams, and the columns that get an early mark."""
        first = starting_slots(pieces)
        self._network.reset(first)
        for slot in first:
            self._streams[slot] = _Stream(self._timing)
        streams = [self._streams[piece.slot] for piece in pieces]
        early: list[_Early] = []
        for stream, piece in zip(streams, pieces, strict=True):
            early += (_Early(piece.slot, stream, columns) for columns in stream.push(piece.data, piece.last))
        return streams, early

    def _mark_early(self, early: list[_Early]) -> None:
        """Compute early marks in one call, from the state before the pieces."""
        if not early:
            return
        # Silence after a row's own columns does not change them.
        most, hop = max(each.columns.count for each in early), self._network.config.HOP_LENGTH
        audio = np.zeros((len(early), (most + 1) * hop), np.float32)
        wanted = np.zeros((len(early), most), np.bool_)
        for row, each in enumerate(early):
            audio[row, : len(each.columns.audio)] = each.columns.audio
            wanted[row, : each.columns.count] = each.columns.wanted
        marks = self._network.marks([each.slot for each in early], audio, wanted, keep=False)
        for each, mark in zip(early, marks, strict=True):
            each.stream.add_marks(each.columns.first, mark[: len(each.columns.audio)])


@dataclass(frozen=True)
class _Columns:
    """What the network needs to make the marks of a stream's next columns: see `MarkNetwork.marks`."""

    first: int
    """The first of the columns whose marks come next, `columns_ahead` before the first under `audio`."""
    audio: Samples
    wanted: npt.NDArray[np.bool_]

    @property
    def count(self) -> int:
        return len(self.wanted)


@dataclass(frozen=True)
class _Early:
    """Columns of a stream that get an early mark."""

    slot: int
    stream: _Stream
    columns: _Columns


class _Stream:
    """One stream's buffers, on the host. Times are sample counts from the stream's start."""

    def __init__(self, timing: Timing) -> None:
        self._timing, self._hop = timing, timing.config.HOP_LENGTH
        self._arrived = 0  # frames
        self._clean = np.zeros(0, np.float32)  # 24 kHz, samples that have not gone out
        self._up = ResampleStream(timing.up)
        # The audio under the windows that come next. The first one reaches half a window before the stream's start.
        self._audio = np.zeros(self._hop, np.float32)
        # The network's first marks belong to columns before column 0 and are dropped.
        self._column = -timing.config.columns_ahead
        self._early_end = 0  # the end of the columns that have early marks
        self._ended = False
        # The network's rate, from the first sample that the resampling of what has not gone out reads.
        self._mark, self._mark_at = np.zeros(0, np.float32), -timing.down.reach

    def push(self, samples: Samples, last: bool) -> list[_Columns]:
        """Append frames; return the columns that get early marks, in groups."""
        self._clean = np.concatenate([self._clean, samples])
        before, self._arrived = self._arrived, self._arrived + len(samples) // FRAME_SAMPLES
        early, done = [], 0
        for arrived in [each for each in self._timing.early if before < each <= self._arrived]:
            upto = (arrived - before) * FRAME_SAMPLES
            self._push(samples[done:upto])
            early.append(self._if_it_ended_here(*self._timing.early[arrived]))
            done = upto
        samples, self._ended = samples[done:], last
        if last:  # after this silence every mark is known
            samples = np.concatenate([samples, np.zeros(self._timing.flush_samples, np.float32)])
        self._push(samples)
        return early

    def _push(self, samples: Samples) -> None:
        self._audio = np.concatenate([self._audio, self._up.push(samples)])

    def _if_it_ended_here(self, first: int, end: int) -> _Columns:
        """Return the columns up to `end`, of which those from `first` on are wanted."""
        self._early_end = end
        wanted = np.arange(self._column, end) >= first
        audio = np.zeros((len(wanted) + 1) * self._hop, np.float32)
        known = np.concatenate([self._audio, self._up.rest()])[: len(audio)]
        audio[: len(known)] = known
        return _Columns(self._column, audio, wanted)

    def take_columns(self) -> _Columns:
        """Return the columns whose windows are complete."""
        count = max(len(self._audio) // self._hop - 1, 0)
        first, self._column = self._column, self._column + count
        wanted = self._timing.marked(first, self._column)
        if self._ended and self._timing.early:  # no early mark was due yet for the last ones
            wanted = wanted | (np.arange(first, self._column) >= self._early_end)
        audio, self._audio = self._audio[: (count + 1) * self._hop], self._audio[count * self._hop :]
        return _Columns(first, audio, wanted)

    def add_marks(self, column: int, marks: Samples) -> None:
        """Add the sum of marks, which begins with the window of `column`."""
        at = (column - 1) * self._hop - self._mark_at
        if at < 0:  # before the stream, or gone: columns with no mark begin there
            marks, at = marks[-at:], 0
        missing = at + len(marks) - len(self._mark)
        if missing > 0:
            self._mark = np.concatenate([self._mark, np.zeros(missing, np.float32)])
        self._mark[at : at + len(marks)] += marks

    def take(self, last: bool) -> Samples:
        """Return all frames with known marks; at the stream's end all frames."""
        held_back = 0 if last else self._arrived - self._timing.hold_back.gone(self._arrived)
        ready = len(self._clean) - held_back * FRAME_SAMPLES
        mark, read = self._timing.down.start(self._mark, ready)
        out = np.clip(self._clean[:ready] + mark, -1.0, 1.0)
        self._clean, self._mark, self._mark_at = self._clean[ready:], self._mark[read:], self._mark_at + read
        return out


def _stack(rows: list[npt.NDArray[Scalar]]) -> npt.NDArray[Scalar]:
    """Return the rows as one array, without a copy if there is one row."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)
