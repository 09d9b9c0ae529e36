"""Detection of the mark in streamed speech and files, by our detector and by the `silentcipher` package."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from silentcipher.server import Model
from silentcipher.stft import STFT
from typer.testing import CliRunner, Result

from benchmarks.load.caller import Answer
from benchmarks.load.measure import check_watermarks
from benchmarks.load.plan import Call
from benchmarks.load.playback import Arrival
from demo.silentcipher.networks import load_networks
from misotts.cli.main import app
from misotts.config import FRAME_SAMPLES
from misotts.slots import Piece
from misotts.watermark.detector import MESSAGE, Detector, Readings, Verdict, judge
from misotts.watermark.read_network import ReadNetwork
from misotts.watermark.silentcipher import SilentCipherError, symbols_of
from misotts.watermark.watermarker import Watermarker
from misotts_client import SpeechRequest
from tests.support.silentcipher_peer import make_published_folder

KEY = bytes([7, 250, 0, 133, 64])
OTHER_KEY = bytes([160, 3, 77, 255, 12])
RATE = 24_000


def stream(folder: Path, audio: np.ndarray, key: bytes = KEY) -> np.ndarray:
    """Mark audio in chunks as the server does: one frame, two frames, then eight each."""
    watermarker = Watermarker(folder, slots=1, key=key)
    pieces = np.split(audio, np.cumsum([1, 2, 8, 8, 8, 8, 8, 8]) * FRAME_SAMPLES)
    return np.concatenate(
        [watermarker.mark([Piece(0, n == 0, piece, n == len(pieces) - 1)])[0] for n, piece in enumerate(pieces)]
    )


@pytest.fixture(scope="module")
def marked(demo_folder: Path, speech: np.ndarray) -> np.ndarray:
    return stream(demo_folder, speech)


@pytest.fixture(scope="module")
def detector(demo_folder: Path) -> Detector:
    return Detector(demo_folder)


def test_speech_has_the_mark_of_its_key_only(detector: Detector, marked: np.ndarray, speech: np.ndarray) -> None:
    readings = detector.read(marked, RATE)
    right, wrong = judge(readings, KEY), judge(readings, OTHER_KEY)
    assert right.key_matches
    assert right.agreement > 0.5
    assert wrong.other_key
    assert not wrong.key_matches
    clean = detector.check(speech, RATE, KEY)
    assert not clean.marked
    assert clean.agreement < 0.4


@pytest.mark.parametrize("start_s", [0.0, 0.31, 1.7])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_mark_is_found_at_any_rate_and_from_any_start(
    detector: Detector, marked: np.ndarray, start_s: float, rate: int
) -> None:
    part = soxr.resample(marked[int(start_s * RATE) :], RATE, rate)
    assert detector.check(part, rate, KEY).key_matches


def test_a_mark_in_the_middle_of_a_long_recording_is_found(
    detector: Detector, marked: np.ndarray, speech: np.ndarray
) -> None:
    recording = np.concatenate([np.tile(speech, 5)[: 31 * RATE], marked, speech])
    assert detector.check(recording, RATE, KEY).key_matches


@pytest.mark.parametrize("samples", [0, 10, 4_800, 10_080, 12_000])
def test_too_short_or_silent_audio_is_not_marked(detector: Detector, samples: int, marked: np.ndarray) -> None:
    assert not detector.check(np.zeros(samples, np.float32), RATE, KEY).marked
    assert detector.check(marked[24_000 : 24_000 + samples], RATE, KEY).seconds == samples / RATE


def test_the_network_equals_the_package_at_published_width(tmp_path: Path) -> None:
    published = make_published_folder(tmp_path / "silentcipher")
    audio = 0.05 * np.random.default_rng(0).standard_normal(2_048 * 30).astype(np.float32)
    got = ReadNetwork(published.folder).read(audio)
    network = package_model(tmp_path, published.message_decoder)
    loud = audio * np.sqrt(network.average_energy_VCTK / np.mean(audio**2))
    magnitude, _ = network.stft.transform(torch.from_numpy(loud)[None])
    logits = published.message_decoder(magnitude[:, None])[0, 0].T  # the package pads its clip at the end
    wanted = logits.log_softmax(dim=1).detach().numpy()
    inside = slice(10, 20)  # the package's STFT pads by reflection, ours with zeros
    np.testing.assert_allclose(got[inside], wanted[inside], rtol=1e-3, atol=1e-3)


def package_model(folder: Path, message_decoder: object) -> Model:
    """Put the package's decoding around a network. Its constructor accepts only the published width."""
    hparams = yaml.safe_load((folder / "silentcipher" / "hparams.yaml").read_text())
    STFT._instances.clear()  # the package caches one per process, of the first size
    model = object.__new__(Model)
    vars(model).update(
        config=SimpleNamespace(**hparams),
        device="cpu",
        n_messages=1,
        message_dim=hparams["message_dim"],
        message_len=hparams["message_len"],
        average_energy_VCTK=0.002837200844477648,
        stft=STFT(hparams["N_FFT"], hparams["HOP_LENGTH"]),
        sr=hparams["SR"],
        dec_m=[message_decoder],
    )
    return model


def test_the_packages_own_decoding_reads_the_stream(demo_folder: Path, marked: np.ndarray) -> None:
    model = package_model(demo_folder, load_networks(demo_folder / "silentcipher").dec_m_0)
    found = model.decode_wav(marked, RATE, phase_shift_decoding=False)
    assert found["status"]
    assert bytes(found["messages"][0]) == KEY
    assert found["confidences"][0] > 0.5


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_bound_holds_for_random_keys(seed: int) -> None:
    """If columns have nothing to do with any key, no more of 100 random keys seem present than the bound allows,
    whatever the columns' confidence and bias."""
    rng = np.random.default_rng(seed)
    logits = rng.gumbel(size=(120, 5)) * rng.uniform(0.1, 5) + rng.normal(size=5) * rng.uniform(0, 3)
    columns = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    readings = Readings([[columns, columns[1:], columns[2:]]], seconds=2.4)
    keys = rng.integers(0, 256, (100, 5), np.uint8)
    bounds = np.array([judge(readings, key.tobytes()).false_positive for key in keys])
    assert (bounds > 0).all()
    assert (bounds < 0.01).sum() <= 6  # at most 1 is expected; 7 have a probability of 1e-4


def test_certain_columns_give_the_least_bound() -> None:
    """20 certain symbols are one key in 4^20; the reading's weight adds little."""
    symbols = np.array(symbols_of(KEY))[np.arange(84) % MESSAGE]
    columns = np.log(np.where(np.arange(5) == symbols[:, None], 0.9, 0.025))
    verdict = judge(Readings([[columns] * 3], seconds=2.0), KEY)
    assert 4.0**-20 <= verdict.false_positive < 10 * 4.0**-20
    assert verdict.agreement == 1
    assert verdict.unmarked < 1e-20


def run_check(file: Path, *options: str, key: bytes = KEY) -> Result:
    arguments = ["watermark", "check", str(file), *options]
    return CliRunner().invoke(app, arguments, env={"MISOTTS_WATERMARK_KEY": key.hex(), "MISOTTS_MODEL": None})


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "ogg"])
def test_the_command_reads_files(tmp_path: Path, marked: np.ndarray, demo_folder: Path, form: str) -> None:
    file = tmp_path / f"speech.{form}"
    soundfile.write(file, np.stack([marked, marked], axis=1), RATE)
    done = run_check(file, f"--model={demo_folder}")
    assert done.exit_code == 0, done.output
    assert "marked with this key" in done.output
    assert KEY.hex() not in done.output


def test_the_commands_exit_status_is_the_result(
    tmp_path: Path, marked: np.ndarray, speech: np.ndarray, demo_folder: Path
) -> None:
    soundfile.write(tmp_path / "marked.wav", marked, RATE)
    soundfile.write(tmp_path / "clean.wav", speech, RATE)
    other = run_check(tmp_path / "marked.wav", f"--model={demo_folder}", key=OTHER_KEY)
    assert (other.exit_code, "another key" in other.output) == (3, True)
    clean = run_check(tmp_path / "clean.wav", f"--model={demo_folder}", "--json")
    assert clean.exit_code == 4
    verdict = json.loads(clean.stdout)
    assert (verdict["marked"], verdict["key_matches"]) == (False, False)
    assert set(verdict) == {"marked", "key_matches", *Verdict.__dataclass_fields__}


def test_the_command_refuses_unusable_files_and_keys(tmp_path: Path, marked: np.ndarray, demo_folder: Path) -> None:
    (tmp_path / "words.wav").write_text("no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    for name, words in (("words.wav", "words.wav: "), ("nan.wav", "NaN"), ("none.wav", "none.wav: ")):
        done = run_check(tmp_path / name, f"--model={demo_folder}")
        assert done.exit_code == 1
        assert words in done.output
    soundfile.write(tmp_path / "marked.wav", marked, RATE)
    assert "hparams.yaml is missing" in run_check(tmp_path / "marked.wav", f"--model={tmp_path}").output
    arguments = ["watermark", "check", str(tmp_path / "marked.wav")]
    done = CliRunner().invoke(app, arguments, env={"MISOTTS_WATERMARK_KEY": ""})
    assert done.exit_code == 1
    assert "no watermark key" in done.output


def test_a_missing_message_decoder_is_refused(tmp_path: Path, demo_folder: Path) -> None:
    shutil.copytree(demo_folder / "silentcipher", tmp_path / "silentcipher")
    (tmp_path / "silentcipher" / "dec_m_0.ckpt").unlink()
    with pytest.raises(SilentCipherError, match=r"dec_m_0\.ckpt is missing"):
        Detector(tmp_path)


def test_bench_finds_answers_without_the_mark(detector: Detector, marked: np.ndarray, speech: np.ndarray) -> None:
    def answer(audio: np.ndarray) -> Answer:
        call = Call(0, None, SpeechRequest(text="Hello."), "listens", float("inf"))
        return Answer(call, 0.0, 0.0, [Arrival(1.0, len(audio))], [audio[: len(audio) // 2], audio[len(audio) // 2 :]])

    answers = [answer(marked), answer(speech), answer(marked[:24_000])]
    assert check_watermarks(answers, detector, KEY) == 2, "one second is too short to judge"
    assert [each.error for each in answers] == ["", "UNMARKED", ""]
