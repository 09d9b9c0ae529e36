"""Streams that go out at once, before the later columns have arrived that the network looks at."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.model import make_silentcipher
from demo.silentcipher.networks import load_networks
from misotts.config import FRAME_SAMPLES
from misotts.hold_back import GRADUAL, HoldBack
from misotts.slots import Piece
from misotts.watermark.key import symbols_of
from misotts.watermark.mark_network import LOUDNESS_PRIOR_S
from misotts.watermark.resample import ResampleStream
from misotts.watermark.silentcipher import SPEECH_POWER
from misotts.watermark.watermarker import Timing, Watermarker, hold_back
from tests.support.clips import speech_like
from tests.support.watermarks import KEY, mark_in_pieces, with_hparams

FRAMES = 24
AUDIO = speech_like(FRAMES * FRAME_SAMPLES, seed=5)


@pytest.fixture(scope="module")
def published_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published windows and lookahead, and few channels."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    make_silentcipher(folder / "silentcipher", 4)
    return folder


@pytest.fixture(scope="module")
def watermarker(published_sizes: Path) -> Watermarker:
    return Watermarker(published_sizes, slots=4, key=KEY)


@given(frames=st.integers(0, 9), every=st.integers(1, 9), arrived=st.integers(0, 90))
def test_a_frame_goes_out_when_enough_have_arrived(frames: int, every: int, arrived: int) -> None:
    kept = HoldBack(frames, every)
    gone = [kept.gone(count) for count in range(arrived + 1)]
    assert all(after - before in (0, 1) for before, after in pairwise(gone))
    assert arrived - gone[-1] <= frames
    for frame in range(gone[-1]):
        assert gone.index(frame + 1) == kept.arrived(frame)


def test_the_first_frame_goes_out_at_once_and_five_are_held_back_later(published_sizes: Path) -> None:
    kept = hold_back(published_sizes)
    assert kept == HoldBack(5, GRADUAL)
    assert [kept.gone(arrived) for arrived in range(1, 18)] == [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12]
    out = mark_in_pieces(Watermarker(published_sizes, slots=1, key=KEY), AUDIO, [1] * FRAMES)
    for arrived, before in zip(range(1, FRAMES), np.cumsum([len(piece) for piece in out]), strict=False):
        assert before == kept.gone(arrived) * FRAME_SAMPLES
    changed = np.concatenate(out) != AUDIO
    assert changed.reshape(FRAMES, -1).mean(axis=1).min() > 0.5, "a frame is not marked"


def published_columns(folder: Path, audio: np.ndarray) -> np.ndarray:
    """Return each column's mark [columns, 4096] at 44.1 kHz by the training code on a whole clip and silence after it,
    at the loudness of the audio up to each column."""
    timing, networks = Timing(Watermarker(folder, slots=1)._network.config), load_networks(folder / "silentcipher")
    hop, silence = 2048, np.zeros(40_000, np.float32)
    up = ResampleStream(timing.up).push(np.concatenate([audio, silence]))
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(hop, np.float32), up]), 2 * hop)[::hop]
    prior = int(LOUDNESS_PRIOR_S * 44_100)
    power = np.array([SPEECH_POWER * prior + np.sum(up[: hop * (n + 1)] ** 2) for n in range(len(windows))])
    gain = np.sqrt(SPEECH_POWER * (prior + hop * np.arange(1, len(windows) + 1)) / power)
    spectra = torch.fft.rfft(torch.from_numpy(windows.copy()) * networks.window).T[None, :1031]
    carrier = (spectra.abs() * torch.from_numpy(gain.astype(np.float32))).unsqueeze(1)
    one_hot = torch.eye(5)[[symbols_of(KEY)[n % 21] for n in range(len(windows))]].T[None, None]
    width = networks.hparams["enc_conv_dim"]
    with torch.no_grad():
        message = torch.nn.functional.pad(networks.enc_c.transform_message(one_hot), (0, 0, 0, 7))
        merged = [networks.enc_c(carrier), carrier.expand(-1, width, -1, -1), message.expand(-1, width, -1, -1)]
        info = networks.dec_c(torch.cat(merged, dim=1))[0, 0, :1024]
    info = info * (info.square().sum(0) / 2049).rsqrt() * (networks.window.square().sum() * SPEECH_POWER).sqrt()
    spectra = spectra[0, :1024]
    mark = -torch.minimum(info * 10 ** (-36 / 20) / torch.from_numpy(gain), spectra.abs()) * torch.sgn(spectra)
    window = networks.window.numpy()
    synthesis = window / (window**2 + np.roll(window**2, hop))
    return np.fft.irfft(np.pad(mark.numpy().T, ((0, 0), (0, 1025))), n=2 * hop) * synthesis


@pytest.mark.parametrize("frames", [4, 9, 17])
def test_a_column_has_the_mark_of_a_clip_that_ends_when_its_first_frame_goes_out(
    published_sizes: Path, frames: int
) -> None:
    hop, watermarker = 2048, Watermarker(published_sizes, slots=1, key=KEY)
    audio, timing = AUDIO[: frames * FRAME_SAMPLES], watermarker._timing
    clips: dict[int, np.ndarray] = {}
    whole = np.zeros((frames + 20) * 4_000, np.float32)
    for column in range(frames * FRAME_SAMPLES * 44_100 // 24_000 // hop + 2):
        first = max(int(timing.down.touched(np.array((column - 1) * hop))), 0) // FRAME_SAMPLES
        arrived = min(first + 1 + min(first // 2, 5), frames)
        if arrived not in clips:
            clips[arrived] = published_columns(published_sizes, audio[: arrived * FRAME_SAMPLES])
        whole[column * hop :][: 2 * hop] += clips[arrived][column]
    expected = ResampleStream(timing.down).push(whole[hop:])[: len(audio)]
    assert np.abs(expected).max() > 1e-4
    found = np.concatenate(mark_in_pieces(watermarker, audio, [1] * frames)) - audio
    # Half of column 0 lies before the stream's start, where `expected` begins, and the resampler looks back.
    np.testing.assert_allclose(found[40:], expected[40:], rtol=0, atol=1e-6)


def test_after_the_start_a_stream_is_as_if_all_had_been_held_back(published_sizes: Path, tmp_path: Path) -> None:
    full = with_hparams(published_sizes / "silentcipher", tmp_path / "full", delay_frames=5)
    assert hold_back(full) == HoldBack(5)
    held, early = (
        np.concatenate(mark_in_pieces(Watermarker(folder, slots=1, key=KEY), AUDIO, [2] * FRAMES))
        for folder in (full, published_sizes)
    )
    different = np.abs(held - early).reshape(FRAMES, -1).max(axis=1)
    assert different[:3].min() > 1e-4
    assert different[12:].max() <= 1e-6


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 6), min_size=1, max_size=12), frames=st.integers(0, 18), empty=st.booleans())
def test_output_does_not_depend_on_the_cuts(
    watermarker: Watermarker, cuts: list[int], frames: int, empty: bool
) -> None:
    """Neither does it depend on whether the end comes with the last frames or after them."""
    audio = AUDIO[: frames * FRAME_SAMPLES]
    whole = mark_in_pieces(watermarker, audio, [frames], slot=1)[0]
    assert len(whole) == len(audio)
    pieces = [*np.split(audio, np.cumsum(cuts) * FRAME_SAMPLES), *[audio[:0]] * empty]
    last = len(pieces) - 1
    found = [watermarker.mark([Piece(0, n == 0, piece, n == last)])[0] for n, piece in enumerate(pieces)]
    assert all(len(piece) % FRAME_SAMPLES == 0 for piece in found)
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", range(1, 9))
def test_a_stream_that_ends_early_keeps_every_sample_and_its_marks(watermarker: Watermarker, frames: int) -> None:
    audio = AUDIO[: frames * FRAME_SAMPLES]
    marked = np.concatenate(mark_in_pieces(watermarker, audio, [1] * frames))
    assert len(marked) == len(audio)
    assert (marked != audio).reshape(frames, -1).mean(axis=1).min() > 0.5


def test_streams_of_one_call_do_not_affect_each_other(watermarker: Watermarker) -> None:
    """One stream is past its start while others begin, and a slot is used again."""
    starts, cuts = (0, 3, 4), [1, 4, 2, 1, 3, 1, 5, 2]
    alone = [np.concatenate(mark_in_pieces(watermarker, AUDIO, cuts[start:], slot=3)) for start in starts]
    pieces = [np.split(AUDIO, np.cumsum(cuts[start:-1]) * FRAME_SAMPLES) for start in starts]
    together: list[list[np.ndarray]] = [[], [], []]
    for turn in range(len(cuts)):
        now = [slot for slot, start in enumerate(starts) if start <= turn]
        call = [
            Piece(slot, turn == starts[slot], pieces[slot][turn - starts[slot]], turn == len(cuts) - 1) for slot in now
        ]
        for slot, out in zip(now, watermarker.mark(call), strict=True):
            together[slot].append(out)
    for lone, shared in zip(alone, together, strict=True):
        np.testing.assert_allclose(np.concatenate(shared), lone, rtol=0, atol=1e-6)
