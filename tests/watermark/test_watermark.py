"""The streaming watermark equals the published network on the whole clip, and itself for any cuts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from demo.silentcipher.networks import load_networks
from misotts.config import FRAME_SAMPLES
from misotts.hold_back import HoldBack
from misotts.slots import Piece
from misotts.watermark.key import symbols_of
from misotts.watermark.mark_network import MarkNetwork
from misotts.watermark.resample import Resampler, ResampleStream
from misotts.watermark.silentcipher import SilentCipherConfig, SilentCipherError
from misotts.watermark.watermarker import Timing, Watermarker, hold_back
from tests.support.clips import speech_like
from tests.support.silentcipher_peer import PublishedFolder, make_published_folder
from tests.support.watermarks import KEY, mark_in_pieces, with_hparams


@pytest.fixture(scope="module")
def watermarker(demo_folder: Path) -> Watermarker:
    return Watermarker(demo_folder, slots=4, key=KEY)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedFolder:
    return make_published_folder(tmp_path_factory.mktemp("model") / "silentcipher")


def published_marks(published: PublishedFolder, audio: np.ndarray, rms: float) -> torch.Tensor:
    """Return the mark's spectrum [bins, columns] by the published arithmetic on a whole clip at 44.1 kHz."""
    encoder, decoder = published.encoder, published.decoder
    window = torch.hann_window(4096)
    padded = torch.nn.functional.pad(torch.from_numpy(audio), (2048, 2048))
    spectrum = torch.stft(padded, 4096, 2048, window=window, center=False, return_complex=True)
    carrier = spectrum.abs()[None, None]
    bits = "".join(f"{byte:08b}" for byte in KEY)
    symbols = [int(bits[i : i + 2], 2) + 1 for i in range(0, 40, 2)] + [0]
    columns = [symbols[t % 21] for t in range(carrier.shape[3])]
    message = encoder.transform_message(torch.eye(5)[columns].T[None, None])
    with torch.no_grad():
        merged = torch.cat((encoder(carrier), carrier.repeat(1, 32, 1, 1), message.repeat(1, 32, 1, 1)), dim=1)
        info = -decoder(merged, 36) * rms
        marked = torch.nn.functional.relu(info + carrier)[0, 0]
    return (marked - spectrum.abs()) * torch.sgn(spectrum)


@pytest.mark.parametrize("step", [1, 3, 40])
def test_columns_equal_the_published_network_on_the_whole_clip(published: PublishedFolder, step: int) -> None:
    hop, columns = 2048, 12
    audio = speech_like(columns * hop, seed=3)
    network = MarkNetwork(published.folder, KEY, slots=2)
    network.reset([1])
    ahead = network.config.columns_ahead
    assert ahead == 6, "the published kernels see six columns ahead"
    tail = np.zeros((ahead + 1) * hop, np.float32)
    padded = np.concatenate([np.zeros(hop, np.float32), audio, tail])
    got = marked_in_steps(network, 1, padded, step)[ahead * hop :]
    window = np.hanning(4097)[:-1]
    synthesis = window / (window**2 + np.roll(window**2, hop))
    whole = published_marks(published, np.concatenate([audio, tail]), network._carrier_rms)
    wanted = np.fft.irfft(whole.numpy().T, n=4096) * synthesis
    expected = overlap_add(wanted)
    # The whole clip ends in silence, which has no mark. All before it must agree.
    agree = min(len(got), len(expected)) - hop
    assert agree >= columns * hop
    assert np.abs(expected[: columns * hop]).max() > 1e-5, "nothing was marked"
    np.testing.assert_allclose(got[:agree], expected[:agree], rtol=0, atol=2e-7)


def marked_in_steps(network: MarkNetwork, slot: int, audio: np.ndarray, step: int) -> np.ndarray:
    """Return the sum of the marks of all columns under `audio` at the network's rate, made `step` columns at a time, at
    the loudness that the audio has."""
    vars(network)["_gains"] = lambda samples, _: torch.ones(1, samples.shape[1] // network.config.HOP_LENGTH - 1)
    hop = network.config.HOP_LENGTH
    columns, summed = len(audio) // hop - 1, np.zeros(len(audio), np.float32)
    for first in range(0, columns, step):
        count = min(step, columns - first)
        part = slice(first * hop, (first + count + 1) * hop)
        summed[part] += network.marks([slot], audio[None, part].copy(), np.ones((1, count), np.bool_))[0]
    return summed


def overlap_add(marks: np.ndarray) -> np.ndarray:
    """[columns, 2 * hop] → [(columns + 1) * hop]."""
    hop = marks.shape[1] // 2
    summed = np.zeros((len(marks) + 1) * hop)
    for column, mark in enumerate(marks):
        summed[column * hop : (column + 2) * hop] += mark
    return summed


def test_only_wanted_columns_are_marked(demo_folder: Path) -> None:
    network = MarkNetwork(demo_folder / "silentcipher", KEY, slots=1)
    hop, wanted = network.config.HOP_LENGTH, np.array([[False, True, False, True]])
    audio = speech_like(5 * hop, seed=4)[None]
    each = [network.marks([0], audio, np.arange(4)[None] == column, keep=False)[0] for column in range(4)]
    assert all(np.abs(mark).max() > 1e-4 for mark in each)
    assert not each[1][:hop].any()
    assert not each[1][3 * hop :].any()
    np.testing.assert_allclose(network.marks([0], audio, wanted)[0], each[1] + each[3], rtol=0, atol=1e-8)


def test_the_demo_network_equals_the_trained_one_on_the_whole_clip(demo_folder: Path, speech: np.ndarray) -> None:
    """The training code on the whole clip equals the deployed code frame by frame."""
    folder = demo_folder / "silentcipher"
    networks = load_networks(folder)
    hop, columns = networks.hparams["HOP_LENGTH"], 4 * 20
    audio = speech[: columns * hop]
    deployed = MarkNetwork(folder, KEY, slots=1)
    overlapped = marked_in_steps(deployed, 0, np.pad(audio, (hop, 0)), 4)
    symbols = torch.tensor([[symbols_of(KEY)[n % 21] for n in range(columns + 1)]])
    mask = torch.ones_like(symbols, dtype=torch.bool)
    with torch.no_grad():
        wanted = networks.mark(torch.from_numpy(audio)[None], symbols, mask, sdr=36)[0].numpy()
    inside = slice(0, (columns - 1) * hop)  # no audio follows the last column of the whole clip
    assert np.abs(wanted).max() > 1e-4
    np.testing.assert_allclose(overlapped[hop:][inside], wanted[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "frames"),
    [({}, 5), ({"lookahead": 0}, 2), ({"lookahead": 3}, 3), ({"lookahead": 6, "delay_frames": 3}, 3)],
)
def test_the_delay_is_stated(published: PublishedFolder, tmp_path: Path, changes: dict[str, int], frames: int) -> None:
    folder = with_hparams(published.folder, tmp_path / "model", **changes)
    assert hold_back(folder).frames == frames
    watermarker = Watermarker(folder, slots=1, key=KEY)
    pieces = mark_in_pieces(watermarker, speech_like(7 * FRAME_SAMPLES), [1] * 7)
    starts = next(n for n, piece in enumerate(pieces) if len(piece))
    assert starts == changes.get("delay_frames", 0), "without the key a stream starts at once"
    assert sum(map(len, pieces)) == 7 * FRAME_SAMPLES


def test_nothing_is_held_back_on_the_demo_model(watermarker: Watermarker, demo_folder: Path) -> None:
    assert hold_back(demo_folder) == HoldBack()
    audio = speech_like(5 * FRAME_SAMPLES)
    pieces = mark_in_pieces(watermarker, audio, [1] * 5)
    assert [len(piece) for piece in pieces] == [FRAME_SAMPLES] * 5
    for n, piece in enumerate(pieces):
        assert (piece != audio[n * FRAME_SAMPLES :][:FRAME_SAMPLES]).mean() > 0.5, f"frame {n} is not marked"


def test_a_delay_marks_more_columns_and_changes_no_others(demo_folder: Path, tmp_path: Path) -> None:
    """Without delay every fourth column, across the border of two frames, is unmarked; the other marks are the same."""
    delayed = with_hparams(demo_folder / "silentcipher", tmp_path / "model", delay_frames=1)
    assert hold_back(delayed) == HoldBack(1)
    audio = speech_like(12 * FRAME_SAMPLES)
    (full,) = Watermarker(delayed, slots=1, key=KEY).mark([Piece(0, True, audio, True)])
    (prompt,) = Watermarker(demo_folder, slots=1, key=KEY).mark([Piece(0, True, audio, True)])
    same = np.isclose(full, prompt, rtol=0, atol=1e-7).reshape(-1, FRAME_SAMPLES)
    assert same[1:, 480:1440].all()
    assert not same[1:, :480].all(axis=1).any()
    assert not same[:, 1440:].all(axis=1).any()


def test_unmarked_columns_are_those_that_would_be_late(demo_folder: Path) -> None:
    timing = Timing(SilentCipherConfig.load(demo_folder / "silentcipher"))
    assert np.flatnonzero(~timing.marked(0, 17)).tolist() == [4, 8, 12, 16]


def test_frames_borders_are_not_audible(watermarker: Watermarker) -> None:
    """The mark changes no more between samples at the frames' borders than within frames."""
    audio = speech_like(60 * FRAME_SAMPLES)
    marked = np.concatenate(mark_in_pieces(watermarker, audio, [1] * 60))
    steps = np.abs(np.diff(marked - audio, n=2))
    borders = np.arange(1, 60) * FRAME_SAMPLES
    at_borders = np.concatenate([steps[borders + n] for n in (-2, -1, 0)])
    assert at_borders.max() <= np.quantile(steps, 0.999)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_output_does_not_depend_on_the_cuts(watermarker: Watermarker, cuts: list[int]) -> None:
    audio = speech_like(23 * FRAME_SAMPLES)
    whole = np.concatenate(mark_in_pieces(watermarker, audio, [23], slot=1))
    pieces = mark_in_pieces(watermarker, audio, cuts)
    assert all(len(piece) % FRAME_SAMPLES == 0 for piece in pieces)
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-6)
    assert len(whole) == len(audio)


def test_streams_of_one_call_do_not_affect_each_other(watermarker: Watermarker) -> None:
    clips = [speech_like(length * FRAME_SAMPLES, seed=length) for length in (3, 9, 14)]
    alone = [np.concatenate(mark_in_pieces(watermarker, clip, [2] * 10)) for clip in clips]
    together: list[list[np.ndarray]] = [[], [], []]
    for start in range(0, 14, 2):
        samples = slice(start * FRAME_SAMPLES, (start + 2) * FRAME_SAMPLES)
        now = [n for n, clip in enumerate(clips) if start * FRAME_SAMPLES < len(clip)]
        pieces = [Piece(n, start == 0, clips[n][samples], samples.stop >= len(clips[n])) for n in now]
        for n, out in zip(now, watermarker.mark(pieces), strict=True):
            together[n].append(out)
    for lone, shared in zip(alone, together, strict=True):
        np.testing.assert_allclose(np.concatenate(shared), lone, rtol=0, atol=1e-6)


def test_a_short_piece_does_not_wait_for_a_long_one(watermarker: Watermarker) -> None:
    lengths = [14, 1, 3]
    pieces = [Piece(n, True, speech_like(length * FRAME_SAMPLES), False) for n, length in enumerate(lengths)]
    alone = [mark_in_pieces(watermarker, piece.data, [20])[0] for piece in pieces]
    done = list(watermarker.mark_each(pieces))
    assert [number for number, _ in done] == [1, 2, 0]
    for number, samples in done:
        np.testing.assert_allclose(samples, alone[number][: len(samples)], rtol=0, atol=1e-6)


def test_the_mark_exists_and_is_small(watermarker: Watermarker) -> None:
    audio = speech_like(40 * FRAME_SAMPLES)
    marked = np.concatenate(mark_in_pieces(watermarker, audio, [40]))
    noise = np.square(marked - audio).mean()
    assert 20 < 10 * np.log10(np.square(audio).mean() / noise) < 60


@pytest.mark.parametrize("kind", ["silence", "dc", "clipping"])
def test_odd_signals_stay_finite_and_in_range(watermarker: Watermarker, kind: str) -> None:
    audio = {
        "silence": np.zeros(12 * FRAME_SAMPLES, np.float32),
        "dc": np.full(12 * FRAME_SAMPLES, 0.5, np.float32),
        "clipping": np.sign(speech_like(12 * FRAME_SAMPLES)).astype(np.float32),
    }[kind]
    marked = np.concatenate(mark_in_pieces(watermarker, audio, [1] * 12))
    assert len(marked) == len(audio)
    assert np.isfinite(marked).all()
    assert np.abs(marked).max() <= 1
    if kind == "silence":
        assert not marked.any()


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 6])
def test_short_streams_keep_every_sample(watermarker: Watermarker, frames: int) -> None:
    audio = speech_like(frames * FRAME_SAMPLES)
    (marked,) = watermarker.mark([Piece(2, True, audio, True)])
    assert len(marked) == len(audio)


UP, DOWN = Resampler(24_000, 44_100), Resampler(44_100, 24_000)


RATES = [(44_100, 24_000), (24_000, 44_100), (24_000, 24_000), *[(n, 24_000) for n in (8_000, 12_000, 16_000, 48_000)]]
RATES += [(24_000, n) for n in (8_000, 12_000, 48_000)]


@pytest.mark.parametrize("rates", RATES)
def test_a_resampler_has_the_products_of_its_matrix(rates: tuple[int, int]) -> None:
    resampler, blocks = Resampler(*rates), 7
    samples = speech_like(blocks * resampler.in_block + 2 * resampler.reach)
    windows = [samples[n * resampler.in_block :][: len(resampler.matrix)] for n in range(blocks)]
    got, read = resampler.start(samples, blocks * resampler.out_block)
    np.testing.assert_allclose(got, np.concatenate([window @ resampler.matrix for window in windows]), atol=1e-6)
    assert read == blocks * resampler.in_block


def test_resamplers_do_not_shift_samples() -> None:
    audio = speech_like(24_000)
    up = ResampleStream(UP).push(np.concatenate([audio, np.zeros(400, np.float32)]))
    wanted = resample_poly(audio, 147, 80, window=("kaiser", 8.0))
    band = slice(1_000, 40_000)
    assert np.abs(up[band] - wanted[band]).max() < 2e-3 * np.abs(wanted).max()
    back = ResampleStream(DOWN).push(ResampleStream(UP).push(np.concatenate([audio, np.zeros(4_000, np.float32)])))
    np.testing.assert_allclose(back[500:23_000], audio[500:23_000], rtol=0, atol=1e-3 * np.abs(audio).max())


@pytest.mark.parametrize("rates", RATES)
@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_samples_taken_in_parts_are_those_of_the_stream(rates: tuple[int, int], counts: list[int]) -> None:
    resampler = Resampler(*rates)
    samples = speech_like(sum(counts) * resampler.in_block + 3 * resampler.reach)
    wanted = ResampleStream(resampler).push(np.pad(samples, (0, 1_000)))
    waiting, parts = np.pad(samples, (resampler.reach, 0)), []
    for count in counts:
        part, read = resampler.start(waiting, count * resampler.out_block)
        parts.append(part)
        waiting = waiting[read:]
    got = np.concatenate(parts)
    assert len(got) == sum(counts) * resampler.out_block
    np.testing.assert_allclose(got, wanted[: len(got)], rtol=0, atol=1e-6)


def test_known_equals_what_a_stream_returns() -> None:
    for samples in (0, 31, 32, 111, 112, 1_920, 3_840):
        assert UP.known(np.array(samples)) == len(ResampleStream(UP).push(np.ones(samples, np.float32)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"enc_conv_dim": 16}, r"enc_c\.ckpt: main\.0\.conv\.weight is \[8, 1, 3, 3\], .* must be \[16, 1, 3, 3\]"),
        ({"dec_c_n_layers": 5}, r"dec_c\.ckpt: missing: main\.4\.conv\.weight and 7 more"),
        ({"HOP_LENGTH": 240}, "HOP_LENGTH must be 480, it is 240"),
        ({"message_len": 22}, "message_len must be 21"),
        ({"lookahead": 7}, "lookahead must be 0 to 6, it is 7"),
        ({"delay_frames": -1}, "delay_frames must not be negative"),
        ({"N_FFT": "many"}, "N_FFT must be a whole number, it is 'many'"),
        ({"utterance_level_normalization": False}, "utterance_level_normalization must be True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_error_names_the_field_the_limit_and_the_value(
    demo_folder: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    folder = with_hparams(demo_folder / "silentcipher", tmp_path / "model", **changes)
    with pytest.raises(SilentCipherError, match=words):
        MarkNetwork(folder / "silentcipher", KEY, slots=1)


def test_nan_in_the_weights_is_refused(demo_folder: Path, tmp_path: Path) -> None:
    folder = with_hparams(demo_folder / "silentcipher", tmp_path / "model")
    file = folder / "silentcipher" / "enc_c.ckpt"
    state = torch.load(file, weights_only=True)
    state["linear.bias"][3] = float("nan")
    torch.save(state, file)
    with pytest.raises(SilentCipherError, match=r"linear\.bias contains NaN"):
        MarkNetwork(folder / "silentcipher", KEY, slots=1)
