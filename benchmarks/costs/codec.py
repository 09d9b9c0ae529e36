"""Sections `decode` and `watermark`: the two later stages, first checked, then timed, at their published sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from moshi.models.compression import MimiModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.costs.floors import Work
from benchmarks.costs.section import Section
from benchmarks.costs.sizes import TOY
from benchmarks.costs.timing import memory
from demo.model import make_mimi_weights, make_silentcipher
from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.decode.decoder import Decoder
from misotts.mimi import build_mimi
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker

Samples = npt.NDArray[np.float32]

STREAMS, FRAMES = 3, 32
DECODE_CUTS = ((1, 1, 1), (1, 1, 1), (1, 1, 1), (2, 1, 3), (4, 0, 2), (1, 2, 1), (1, 1, 1))
"""Frames of three streams in each call. One shape comes often enough for its graph to be captured and replayed."""
RESTART = (1, 3)
"""The stream that starts again, and the call in which it does so."""
WATERMARK_CUTS = ((1, 1, 1), (2, 2, 2), (5, 5, 5), (8, 8, 8), (16, 16, 16))

RATE = "float32 as TF32"
"""torch lets convolutions compute in TF32."""
BOUNDS = {"float32": 1e-3, "TF32": 3e-2}


def random_mimi(config: ModelConfig, device: str) -> MimiModel:
    torch.manual_seed(0)
    mimi = build_mimi(config)
    mimi.load_state_dict(make_mimi_weights(config))
    return mimi.eval().requires_grad_(False).to(device)


@contextmanager
def random_silentcipher(width: int) -> Iterator[Path]:
    """Yield a folder that holds `silentcipher/`."""
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        make_silentcipher(Path(folder) / "silentcipher", width)
        yield Path(folder)


def decode(section: Section) -> None:
    """Sends checks of the audio, with and without TF32, and the table `decode`."""
    codes = np.random.default_rng(0).integers(0, TOY.audio_codes, (STREAMS, FRAMES, TOY.audio_num_codebooks))

    def run(device: str) -> list[Samples]:
        decoder = Decoder(random_mimi(TOY, device), STREAMS)
        return _stream(decoder.decode, codes.astype(np.int32), 1, DECODE_CUTS, RESTART)

    _check(section, "audio", run, np.zeros(STREAMS))
    config = section.sizes.config
    mimi = random_mimi(config, "cpu")
    halves = (mimi.decoder, mimi.decoder_transformer, mimi.upsample)
    weights = float(sum(p.nbytes for half in halves if half is not None for p in half.parameters()))
    piece, alone = Piece(0, False, np.ones((1, config.audio_num_codebooks), np.int32)), Decoder(mimi, 1)
    frame = Work(weights, _flops(lambda: alone.decode([piece])), RATE)  # on the CPU: a graph's replay counts nothing
    time_decode(section, Decoder(random_mimi(config, section.device), max(section.sizes.codec_rows)), frame)
    section.value("memory", memory(section.device))


def watermark(section: Section) -> None:
    """Sends checks of the mark, with and without TF32, and the table `watermark`."""
    audio = np.random.default_rng(0).normal(0, 0.1, (STREAMS, FRAMES * FRAME_SAMPLES)).astype(np.float32)
    with random_silentcipher(4) as folder:

        def run(device: str) -> list[Samples]:
            return _stream(Watermarker(folder, STREAMS, device=device).mark, audio, FRAME_SAMPLES, WATERMARK_CUTS)

        _check(section, "mark", run, audio)
    with random_silentcipher(section.sizes.watermark_width) as folder:
        watermarker = Watermarker(folder, max(section.sizes.codec_rows), device=section.device)
        # The network has some hundred kilobytes of weights, which do not count.
        time_watermark(section, watermarker, lambda mark: Work(0, _flops(mark), RATE))
    section.value("memory", memory(section.device))


def time_decode(section: Section, decoder: Decoder, frame: Work | None = None) -> None:
    """Fill the table `decode`; `frame`: the work of a call of one frame, of which the bytes are the weights."""
    codes = np.ones((max(section.sizes.codec_frames), section.sizes.config.audio_num_codebooks), np.int32)
    for length in section.sizes.codec_frames:
        for count in section.sizes.codec_rows:
            pieces = [Piece(slot, False, codes[:length]) for slot in range(count)]
            work = frame and Work(frame.bytes, frame.flops * count * length, frame.dtype)
            section.time("decode", partial(decoder.decode, pieces), work, rows=count, frames=length)


def time_watermark(
    section: Section,
    watermarker: Watermarker,
    work_of: Callable[[Callable[[], object]], Work | None] = lambda call: None,
) -> None:
    """Fill the table `watermark`, in the middle of streams; `work_of` returns the work of a call."""
    noise = np.random.default_rng(0).normal(0, 0.1, max(section.sizes.codec_frames) * FRAME_SAMPLES)
    for length in section.sizes.codec_frames:
        for count in section.sizes.codec_rows:
            audio = noise[: length * FRAME_SAMPLES].astype(np.float32)
            mark = partial(watermarker.mark, [Piece(slot, False, audio) for slot in range(count)])
            section.time("watermark", mark, work_of(mark), rows=count, frames=length)


def _flops(call: Callable[[], object]) -> float:
    """Return the operations of a call's products and convolutions: a mean, because columns do not come one a frame."""
    calls = 4
    with FlopCounterMode(display=False) as counter:
        for _ in range(calls):
            call()
    return counter.get_total_flops() / calls


def _check(
    section: Section, name: str, run: Callable[[str], list[Samples]], clean: Sequence[float] | npt.NDArray[Any]
) -> None:
    """Compare the device with the CPU; what counts is the difference from `clean`, such as the mark in the audio."""
    expected = run("cpu")
    for precision, bound in BOUNDS.items():
        with _tf32(precision == "TF32"):
            found = run(section.device)
        errors = [_error(a - c, b - c) for a, b, c in zip(found, expected, clean, strict=True)]
        section.check(f"{name}, {precision}", all(error <= bound for error in errors), error=max(errors))


def _stream(
    process: Callable[[list[Piece[Any]]], list[Samples]],
    data: npt.NDArray[Any],
    frame_rows: int,
    cuts: Sequence[Sequence[int]],
    restart: tuple[int, int] | None = None,
) -> list[Samples]:
    """Send streams in pieces of `cuts` frames through a stage; `frame_rows`: rows of `data` [stream, rows] a frame."""
    at = [0] * STREAMS
    audio: list[list[Samples]] = [[] for _ in at]
    for number, cut in enumerate(cuts):
        pieces = []
        for slot, frames in enumerate(cut):
            rows = data[slot, at[slot] * frame_rows : (at[slot] + frames) * frame_rows]
            pieces.append(Piece(slot, number == 0 or (slot, number) == restart, rows, number == len(cuts) - 1))
            at[slot] += frames
        for slot, out in enumerate(process(pieces)):
            audio[slot].append(out)
    return [np.concatenate(parts) for parts in audio]


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow convolutions TF32 or not; matrix products are not changed."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _error(found: Samples, expected: Samples) -> float:
    difference = np.linalg.norm((found - expected).astype(np.float64))
    return float(f"{difference / np.linalg.norm(expected.astype(np.float64)):.3g}")
