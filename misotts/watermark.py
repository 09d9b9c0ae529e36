"""The watermark stage: SilentCipher's embedding network over streams of audio.

The published code marks whole clips. Here each stream keeps the state that the same arithmetic needs:

    24 kHz ─▶ 44.1 kHz ─▶ STFT columns ─▶ network, column by column ─▶ the mark's spectrum ─▶ 44.1 kHz ─▶ 24 kHz ─▶ +

The mark alone is taken back to 24 kHz and added to the audio, which so keeps its own samples. A column's mark depends
on `LOOKAHEAD` columns after it, hence the delay: `delay_samples`. Two things differ from the published code, which
knows the whole utterance before it starts: the loudness that scales the network's input is that of the audio so far,
and batch normalisation uses its trained statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from misotts.config import FRAME_SAMPLES
from misotts.resample import DOWN, UP
from misotts.silentcipher import LOOKAHEAD, MarkNetwork
from misotts.slots import rounds
from misotts.watermark_key import REFERENCE_KEY

SPEECH_POWER = 0.002837200844477648
"""Mean power to which SilentCipher brings its input (its training speech, VCTK)."""

LOUDNESS_PRIOR_SAMPLES = 11_025
"""A stream starts as if this much speech of `SPEECH_POWER` had come before it: 250 ms at 44.1 kHz."""

POWER_FLOOR = 1e-8


@dataclass(frozen=True)
class Audio:
    """A piece of one stream."""

    slot: int
    first: bool
    """Whether the stream starts here, so that the slot's state is reset."""
    samples: np.ndarray
    """float32 [frames * 1920]; may be empty."""
    last: bool
    """Whether the stream ends here, so that everything held back comes out."""


def delay_samples(hop: int) -> int:
    """Most samples at 24 kHz that a stream holds back: one column's half window, the network's lookahead, and the two
    resamplers' reach."""
    at_441 = (LOOKAHEAD + 2) * hop + DOWN.reach
    return -(-at_441 * DOWN.out_block // DOWN.in_block) + 2 * UP.in_block


def delay_frames(folder: Path) -> int:
    """Whole frames that must come in before the first one goes out, less that one."""
    return -(-delay_samples(MarkNetwork.read_hop(Path(folder) / "silentcipher")) // FRAME_SAMPLES)


class Watermarker:
    """Streams of audio → the same streams, marked: any mix of streams and lengths in one call.

    What comes out does not depend on how a stream was cut, up to 1e-6. Frames come out whole.
    """

    def __init__(self, folder: Path, slots: int, key: bytes = REFERENCE_KEY, device: str = "cpu") -> None:
        """Read `folder/silentcipher`. `key`: the five bytes that every stream carries."""
        self._network = MarkNetwork(Path(folder) / "silentcipher", key, slots, device)
        self._streams = [_Stream(self._network.hop) for _ in range(slots)]

    @torch.inference_mode()
    def mark(self, pieces: Sequence[Audio]) -> list[np.ndarray]:
        """Return what each piece's stream can let go, float32 [frames * 1920]. At most one piece per slot."""
        assert len({p.slot for p in pieces}) == len(pieces), "two pieces of one stream in one call"
        first = [p.slot for p in pieces if p.first]
        self._network.reset(first)
        for slot in first:
            self._streams[slot] = _Stream(self._network.hop)
        streams = [self._streams[p.slot] for p in pieces]
        for stream, piece in zip(streams, pieces, strict=True):
            stream.push(piece.samples, piece.last)
        windows = [stream.take_windows() for stream in streams]
        for start, end, members in rounds([len(w) for w, _ in windows]):
            marks = self._network.marks(
                slots=[pieces[m].slot for m in members],
                windows=np.stack([windows[m][0][start:end] for m in members]),
                gains=np.stack([windows[m][1][start:end] for m in members]),
            )
            for member, mark in zip(members, marks, strict=True):
                streams[member].add_marks(mark)
        return [stream.take(piece.last) for stream, piece in zip(streams, pieces, strict=True)]


class _Stream:
    """One stream's buffers, on the host. Times are sample counts from the stream's start."""

    def __init__(self, hop: int) -> None:
        self._hop = hop
        self._clean = np.zeros(0, np.float32)  # 24 kHz, not let go yet
        self._up, self._down = UP.stream(), DOWN.stream()
        # STFT columns are centred on multiples of the hop: the first one reaches half a window before the start.
        self._window = np.zeros(hop, np.float32)
        self._power = SPEECH_POWER * LOUDNESS_PRIOR_SAMPLES
        self._counted = LOUDNESS_PRIOR_SAMPLES
        # Marks of the columns before column 0 are the network's start-up and are dropped.
        self._skip = LOOKAHEAD
        self._overlap = np.zeros(hop, np.float32)
        self._started = False
        self._mark = np.zeros(0, np.float32)  # 24 kHz, not added yet

    def push(self, samples: np.ndarray, last: bool) -> None:
        self._clean = np.concatenate([self._clean, samples])
        if last:  # silence pushes out everything that is held back
            samples = np.concatenate([samples, np.zeros(delay_samples(self._hop) + FRAME_SAMPLES, np.float32)])
        self._window = np.concatenate([self._window, self._up.push(samples)])

    def take_windows(self) -> tuple[np.ndarray, np.ndarray]:
        """The STFT windows that are complete, float32 [columns, 2 * hop], and the gain of each: what brings the audio
        up to its end to `SPEECH_POWER`."""
        hop = self._hop
        columns = max(len(self._window) // hop - 1, 0)
        windows = np.zeros((0, 2 * hop), np.float32)
        if columns:
            windows = np.lib.stride_tricks.sliding_window_view(self._window, 2 * hop)[::hop][:columns]
        news = (windows[:, hop:].astype(np.float64) ** 2).sum(axis=1)
        power = self._power + news.cumsum()
        counted = self._counted + hop * np.arange(1, columns + 1)
        if columns:
            self._power, self._counted = float(power[-1]), int(counted[-1])
        gains = np.sqrt(SPEECH_POWER / np.maximum(power / counted, POWER_FLOOR)).astype(np.float32)
        self._window = self._window[columns * hop :]
        return windows, gains

    def add_marks(self, marks: np.ndarray) -> None:
        """Overlap-add the next columns' marks, float32 [columns, 2 * hop]."""
        skipped = min(self._skip, len(marks))
        self._skip -= skipped
        ready = []
        for mark in marks[skipped:]:
            half = self._overlap + mark[: self._hop]
            self._overlap = mark[self._hop :]
            if self._started:  # column 0's first half lies before the stream's start
                ready.append(half)
            self._started = True
        if ready:
            self._mark = np.concatenate([self._mark, self._down.push(np.concatenate(ready))])

    def take(self, last: bool) -> np.ndarray:
        """Let go of all frames whose mark is known; at the end, of everything."""
        ready = min(len(self._mark), len(self._clean)) // FRAME_SAMPLES * FRAME_SAMPLES
        assert not last or ready == len(self._clean), "the flush did not reach the stream's end"
        out = np.clip(self._clean[:ready] + self._mark[:ready], -1.0, 1.0)
        self._clean, self._mark = self._clean[ready:], self._mark[ready:]
        return out
