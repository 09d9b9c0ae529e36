"""Sections `decode` and `watermark`: the two later stages, first right, then timed, at their published sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from moshi.models import MimiModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.costs.floors import Work
from benchmarks.costs.timing import memory
from benchmarks.gpu_suite.section import Section
from benchmarks.gpu_suite.sizes import TOY
from demo.model import make_mimi_weights, make_silentcipher
from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.decode.decoder import Decoder
from misotts.mimi import build_mimi
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker

CUTS = ((1, 1, 1), (1, 1, 1), (1, 1, 1), (2, 1, 3), (4, 0, 2), (1, 2, 1), (1, 1, 1))
"""Frames of three streams in each call. One shape comes often enough for its graph to be captured and replayed."""

RATE = "float32 as TF32"
"""What torch allows convolutions to compute in."""


def random_mimi(config: ModelConfig, device: str) -> MimiModel:
    torch.manual_seed(0)
    mimi = build_mimi(config)
    mimi.load_state_dict(make_mimi_weights(config))
    return mimi.eval().requires_grad_(False).to(device)


@contextmanager
def random_silentcipher(width: int) -> Iterator[Path]:
    """A folder that holds `silentcipher/`."""
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        make_silentcipher(Path(folder) / "silentcipher", width)
        yield Path(folder)


def decode(section: Section) -> None:
    """Sends checks of the audio, with and without TF32, and the table `decode`."""
    codes = np.random.default_rng(0).integers(0, TOY.audio_codes, (3, 32, TOY.audio_num_codebooks)).astype(np.int32)
    expected = _stream(Decoder(random_mimi(TOY, "cpu"), 3), codes)
    for name, allowed, bound in (("float32", False, 1e-3), ("TF32", True, 3e-2)):
        with _tf32(allowed):
            found = _stream(Decoder(random_mimi(TOY, section.device), 3), codes)
        error = max(_error(a, b) for a, b in zip(found, expected, strict=True))
        section.check(f"audio, {name}", error <= bound, error=error)
    config = section.sizes.config
    mimi = random_mimi(config, "cpu")
    halves = (mimi.decoder, mimi.decoder_transformer, mimi.upsample)
    weights = float(sum(p.nbytes for half in halves if half is not None for p in half.parameters()))
    piece = np.ones((1, config.audio_num_codebooks), np.int32)
    alone = Decoder(mimi, 1)
    flops = _flops(lambda: alone.decode([Piece(0, False, piece)]))  # on the CPU: a graph's replay counts nothing
    decoder = Decoder(random_mimi(config, section.device), max(section.sizes.codec_rows))
    for frames in section.sizes.codec_frames:
        for rows in section.sizes.codec_rows:
            pieces = [Piece(n, False, piece.repeat(frames, axis=0)) for n in range(rows)]
            work = Work(weights, flops * rows * frames, RATE)
            section.time("decode", partial(decoder.decode, pieces), work, rows=rows, frames=frames)
    section.value("memory", memory(section.device))


def watermark(section: Section) -> None:
    """Sends a check of the marked audio, and the table `watermark`."""
    dice = np.random.default_rng(0)
    audio = dice.normal(0, 0.1, (3, 32 * FRAME_SAMPLES)).astype(np.float32)
    with random_silentcipher(4) as folder:
        expected = _mark(Watermarker(folder, 3), audio)
        for name, allowed, bound in (("float32", False, 1e-3), ("TF32", True, 3e-2)):
            with _tf32(allowed):
                found = _mark(Watermarker(folder, 3, device=section.device), audio)
            # Of the mark, not of the audio that it hides in.
            error = max(_error(a - c, b - c) for a, b, c in zip(found, expected, audio, strict=True))
            section.check(f"mark, {name}", error <= bound, error=error)
    with random_silentcipher(section.sizes.watermark_width) as folder:
        watermarker = Watermarker(folder, max(section.sizes.codec_rows), device=section.device)
        for frames in section.sizes.codec_frames:
            for rows in section.sizes.codec_rows:
                audio = dice.normal(0, 0.1, frames * FRAME_SAMPLES).astype(np.float32)
                pieces = [Piece(n, False, audio, False) for n in range(rows)]
                mark = partial(watermarker.mark, pieces)
                work = Work(0, _flops(mark), RATE)  # some hundred kilobytes of weights
                section.time("watermark", mark, work, rows=rows, frames=frames)
    section.value("memory", memory(section.device))


def _flops(call: Callable[[], object]) -> float:
    """Operations of a call's products and convolutions: the mean of a few, since columns do not come one a frame."""
    calls = 4
    with FlopCounterMode(display=False) as counter:
        for _ in range(calls):
            call()
    return counter.get_total_flops() / calls


def _stream(decoder: Decoder, codes: np.ndarray) -> list[np.ndarray]:
    """Three streams, cut as `CUTS` says; the second begins anew after half of the calls."""
    at = [0, 0, 0]
    audio: list[list[np.ndarray]] = [[], [], []]
    for number, cut in enumerate(CUTS):
        pieces = []
        for slot, frames in enumerate(cut):
            first = number == 0 or (slot == 1 and number == len(CUTS) // 2)
            pieces.append(Piece(slot, first, codes[slot, at[slot] : at[slot] + frames]))
            at[slot] += frames
        for slot, out in enumerate(decoder.decode(pieces)):
            audio[slot].append(out)
    return [np.concatenate(parts) for parts in audio]


def _mark(watermarker: Watermarker, audio: np.ndarray) -> list[np.ndarray]:
    """Three streams in pieces of different lengths, to their ends."""
    marked: list[list[np.ndarray]] = [[], [], []]
    frames = audio.shape[1] // FRAME_SAMPLES
    cuts = [(0, 1), (1, 3), (3, 8), (8, 16), (16, frames)]
    for first, last in cuts:
        pieces = [
            Piece(slot, first == 0, audio[slot, first * FRAME_SAMPLES : last * FRAME_SAMPLES], last == frames)
            for slot in range(3)
        ]
        for slot, out in enumerate(watermarker.mark(pieces)):
            marked[slot].append(out)
    return [np.concatenate(parts) for parts in marked]


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """For convolutions, which torch computes so unless it is told not to; not for matrix products."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(f"{np.linalg.norm(found - expected) / np.linalg.norm(expected):.3g}")
