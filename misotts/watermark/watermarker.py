"""The watermark stage: SilentCipher's embedding network over streams of audio.

The published code marks whole clips. Here each stream keeps the state that the same arithmetic needs:

    24 kHz ─▶ network's rate ─▶ STFT columns ─▶ network, column by column ─▶ each column's mark ─▶ 24 kHz ─▶ +

Only the mark is resampled to 24 kHz; it is added to the original samples. A frame goes out once
`Timing.delay_frames` frames have followed it. A column without a known mark by then stays unmarked as a whole, so
that the mark fades in and out and never jumps. Two things differ from the published code, which has the whole utterance
before it starts: the loudness that scales the network's input is that of the audio so far, and batch normalisation uses
its trained statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from misotts.config import FRAME_SAMPLES, SAMPLE_RATE
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
    """The time at which a column's mark is known. STFT columns are centred on multiples of the hop, the first one on
    the stream's start."""

    def __init__(self, config: SilentCipherConfig) -> None:
        self.config = config
        self.up, self.down = Resampler(SAMPLE_RATE, config.SR), Resampler(config.SR, SAMPLE_RATE)
        self.delay_frames = self._full_delay() if config.delay_frames is None else config.delay_frames
        """Number of frames that must follow a frame before it goes out."""

    def marked(self, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """True for each column with a mark that is known when the first frame that it changes goes out."""
        begins = self.down.touched((columns - 1) * self.config.HOP_LENGTH)  # negative for a stream's first columns
        samples = (np.maximum(begins, 0) // FRAME_SAMPLES + 1 + self.delay_frames) * FRAME_SAMPLES
        late = columns >= self.up.known(samples) // self.config.HOP_LENGTH - self.config.columns_ahead
        return (columns >= 0) & ~late

    def flush_samples(self) -> int:
        """Number of samples of silence at 24 kHz after which the mark of a stream's last sample is known."""
        hops = (self.config.columns_ahead + 3) * self.config.HOP_LENGTH
        return hops * SAMPLE_RATE // self.config.SR + 2 * self.up.reach + FRAME_SAMPLES

    def _full_delay(self) -> int:
        """Return the shortest delay with which every column is marked."""
        frame = FRAME_SAMPLES * self.config.SR // SAMPLE_RATE  # columns until a frame and a column coincide again
        self.delay_frames = 0
        while not self.marked(np.arange(frame)).all():
            self.delay_frames += 1
        return self.delay_frames


def delay_frames(folder: Path) -> int:
    """Number of frames that the model in `folder` holds back before a stream's first one goes out."""
    return Timing(SilentCipherConfig.load(Path(folder) / "silentcipher")).delay_frames


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
        streams = self._push(pieces)
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

    def _push(self, pieces: Sequence[Piece[np.float32]]) -> list[_Stream]:
        """Append each piece to its stream and return the streams."""
        first = starting_slots(pieces)
        self._network.reset(first)
        for slot in first:
            self._streams[slot] = _Stream(self._timing)
        streams = [self._streams[piece.slot] for piece in pieces]
        for stream, piece in zip(streams, pieces, strict=True):
            stream.push(piece.data, piece.last)
        return streams


class _Stream:
    """One stream's buffers, on the host. Times are sample counts from the stream's start."""

    def __init__(self, timing: Timing) -> None:
        self._timing, self._hop = timing, timing.config.HOP_LENGTH
        self._clean = np.zeros(0, np.float32)  # 24 kHz, samples that have not gone out
        self._up = ResampleStream(timing.up)
        # The first column reaches half a window before the stream's start.
        self._window = np.zeros(self._hop, np.float32)
        self._counted = int(LOUDNESS_PRIOR_S * timing.config.SR)
        self._power = SPEECH_POWER * self._counted
        # The network's first marks belong to columns before column 0 and are dropped.
        self._column = -timing.config.columns_ahead
        # The network's rate, from the first sample that the resampling of what has not gone out reads.
        self._mark, self._mark_at = np.zeros(0, np.float32), -timing.down.reach

    def push(self, samples: Samples, last: bool) -> None:
        self._clean = np.concatenate([self._clean, samples])
        if last:  # after this silence every mark is known
            samples = np.concatenate([samples, np.zeros(self._timing.flush_samples(), np.float32)])
        self._window = np.concatenate([self._window, self._up.push(samples)])

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
        hop, first = self._hop, self._column
        self._column += len(marks)
        marks = marks * self._timing.marked(np.arange(first, self._column))[:, None]
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
        held_back = 0 if last else self._timing.delay_frames * FRAME_SAMPLES
        ready = max(len(self._clean) - held_back, 0)
        mark, read = self._timing.down.start(self._mark, ready)
        out = np.clip(self._clean[:ready] + mark, -1.0, 1.0)
        self._clean, self._mark, self._mark_at = self._clean[ready:], self._mark[read:], self._mark_at + read
        return out
