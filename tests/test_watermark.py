"""The streaming watermark against the published network on the whole clip, and against itself, cut otherwise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly
from silentcipher.model import CarrierDecoder, Encoder

from demo.model import SILENTCIPHER
from misotts.config import FRAME_SAMPLES
from misotts.resample import DOWN, UP, Resampler
from misotts.silentcipher import LOOKAHEAD, MarkNetwork, SilentCipherError
from misotts.watermark import Audio, Watermarker, delay_frames

KEY = bytes([7, 250, 0, 133, 64])


def speech_like(samples: int, seed: int = 0) -> np.ndarray:
    """Noise that swells and fades, float32 [samples], about as loud as speech."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.standard_normal(samples + 20), np.hanning(20), "valid")[:samples]
    swell = 0.5 + 0.5 * np.sin(np.arange(samples) / 3_000)
    return (0.03 * noise * swell).astype(np.float32)


@pytest.fixture(scope="module")
def watermarker(demo_folder: Path) -> Watermarker:
    return Watermarker(demo_folder, slots=4, key=KEY)


def mark_in_pieces(watermarker: Watermarker, audio: np.ndarray, frames: list[int], slot: int = 0) -> list[np.ndarray]:
    """Stream `audio` in pieces of so many frames; the last piece takes the rest."""
    cuts = np.cumsum(frames) * FRAME_SAMPLES
    pieces = np.split(audio, cuts[cuts < len(audio)])
    out = []
    for number, piece in enumerate(pieces):
        (marked,) = watermarker.mark([Audio(slot, number == 0, piece, number == len(pieces) - 1)])
        out.append(marked)
    return out


@pytest.fixture(scope="module")
def published_width(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoder, CarrierDecoder]:
    """The package's own networks at full width with random weights and statistics, saved as it saves them."""
    folder = tmp_path_factory.mktemp("silentcipher")
    (folder / "hparams.yaml").write_text(yaml.safe_dump(SILENTCIPHER))
    torch.manual_seed(1)
    config = SimpleNamespace(**SILENTCIPHER)
    encoder = Encoder(n_layers=3, message_dim=5, out_dim=32, message_band_size=1024, n_fft=4096).eval()
    decoder = CarrierDecoder(config=config, conv_dim=96, n_layers=4, message_band_size=1024).eval()
    for module in [*encoder.modules(), *decoder.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.1)
    torch.save({f"module.{k}": v for k, v in encoder.state_dict().items()}, folder / "enc_c.ckpt")
    torch.save(decoder.state_dict(), folder / "dec_c.ckpt")
    return folder, encoder, decoder


def published_marks(encoder: Encoder, decoder: CarrierDecoder, audio: np.ndarray, rms: float) -> torch.Tensor:
    """The mark's spectrum [bins, columns] by the published arithmetic on a whole clip at 44.1 kHz."""
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
def test_columns_equal_the_published_network_on_the_whole_clip(
    published_width: tuple[Path, Encoder, CarrierDecoder], step: int
) -> None:
    folder, encoder, decoder = published_width
    hop, columns = 2048, 12
    audio = speech_like(columns * hop, seed=3)
    network = MarkNetwork(folder, KEY, slots=2)
    network.reset([1])
    tail = np.zeros((LOOKAHEAD + 1) * hop, np.float32)
    padded = np.concatenate([np.zeros(hop, np.float32), audio, tail])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop]
    ours = [
        network.marks(
            [1], windows[None, at : at + step].copy(), np.ones((1, len(windows[at : at + step])), np.float32)
        )[0]
        for at in range(0, len(windows), step)
    ]
    got = np.concatenate(ours)[LOOKAHEAD:]
    window = np.hanning(4097)[:-1]
    synthesis = window / (window**2 + np.roll(window**2, hop))
    whole = published_marks(encoder, decoder, np.concatenate([audio, tail]), network._carrier_rms)
    wanted = np.fft.irfft(whole.numpy().T, n=4096) * synthesis
    # The whole clip ends in silence, where there is nothing to mark; before it every column must agree.
    agree = min(len(got), len(wanted))
    assert agree >= columns
    assert np.abs(wanted[:columns]).max() > 1e-5, "nothing was marked"
    np.testing.assert_allclose(got[:agree], wanted[:agree], rtol=0, atol=2e-7)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_output_does_not_depend_on_the_cuts(watermarker: Watermarker, cuts: list[int]) -> None:
    audio = speech_like(23 * FRAME_SAMPLES)
    whole = np.concatenate(mark_in_pieces(watermarker, audio, [23], slot=1))
    pieces = mark_in_pieces(watermarker, audio, cuts)
    assert all(len(piece) % FRAME_SAMPLES == 0 for piece in pieces)
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-6)
    assert len(whole) == len(audio)


def test_streams_of_one_call_do_not_touch_each_other(watermarker: Watermarker) -> None:
    clips = [speech_like(length * FRAME_SAMPLES, seed=length) for length in (3, 9, 14)]
    alone = [np.concatenate(mark_in_pieces(watermarker, clip, [2] * 10)) for clip in clips]
    together: list[list[np.ndarray]] = [[], [], []]
    for start in range(0, 14, 2):
        samples = slice(start * FRAME_SAMPLES, (start + 2) * FRAME_SAMPLES)
        now = [n for n, clip in enumerate(clips) if start * FRAME_SAMPLES < len(clip)]
        pieces = [Audio(n, start == 0, clips[n][samples], samples.stop >= len(clips[n])) for n in now]
        for n, out in zip(now, watermarker.mark(pieces), strict=True):
            together[n].append(out)
    for lone, shared in zip(alone, together, strict=True):
        np.testing.assert_allclose(np.concatenate(shared), lone, rtol=0, atol=1e-6)


def test_the_mark_is_there_and_small(watermarker: Watermarker) -> None:
    audio = speech_like(40 * FRAME_SAMPLES)
    marked = np.concatenate(mark_in_pieces(watermarker, audio, [40]))
    noise = np.square(marked - audio).mean()
    assert 20 < 10 * np.log10(np.square(audio).mean() / noise) < 60


@pytest.mark.parametrize("kind", ["silence", "dc", "clipping"])
def test_odd_signals_stay_sane(watermarker: Watermarker, kind: str) -> None:
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
    (marked,) = watermarker.mark([Audio(2, True, audio, True)])
    assert len(marked) == len(audio)


def test_the_first_frame_comes_out_after_the_stated_delay(watermarker: Watermarker, demo_folder: Path) -> None:
    pieces = mark_in_pieces(watermarker, speech_like(30 * FRAME_SAMPLES), [1] * 30)
    assert next(n for n, piece in enumerate(pieces) if len(piece)) == delay_frames(demo_folder)


def test_resamplers_place_every_sample(watermarker: Watermarker) -> None:
    audio = speech_like(24_000)
    up = Resampler(80, 147).stream().push(np.concatenate([audio, np.zeros(400, np.float32)]))
    wanted = resample_poly(audio, 147, 80, window=("kaiser", 8.0))
    band = slice(1_000, 40_000)
    assert np.abs(up[band] - wanted[band]).max() < 2e-3 * np.abs(wanted).max()
    back = DOWN.stream().push(UP.stream().push(np.concatenate([audio, np.zeros(4_000, np.float32)])))
    np.testing.assert_allclose(back[500:23_000], audio[500:23_000], rtol=0, atol=1e-3 * np.abs(audio).max())


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(SilentCipherError, match=r"hparams\.yaml is missing"):
        MarkNetwork(tmp_path, KEY, slots=1)
