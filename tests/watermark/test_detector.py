"""Detection of the mark in streamed speech and files, by our detector and by the `silentcipher` package."""

import json
import shutil
from math import factorial, prod
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
from benchmarks.watermark_sounds import KINDS, stored
from demo.silentcipher.networks import load_networks
from misotts.cli.main import app
from misotts.config import FRAME_SAMPLES
from misotts.slots import Piece
from misotts.watermark.detector import REPEATING, Detector, Finding, Reading, Readings, Verdict, judge, judge_each
from misotts.watermark.evidence import MESSAGE, Tables
from misotts.watermark.key import symbols_of
from misotts.watermark.read_network import Columns, ReadNetwork
from misotts.watermark.silentcipher import SilentCipherError
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
    assert (right.finding, right.reason, right.distance) == (Finding.THIS_KEY, "", 0)
    assert right.unmarked < 1e-9
    assert right.another_key < 1e-4
    assert right.agreement > 0.5
    assert wrong.finding is Finding.ANOTHER_KEY
    clean = detector.check(speech, RATE, KEY)
    assert clean.finding is Finding.NO_MARK
    assert clean.agreement < 0.4


@pytest.mark.parametrize("distance", [1, 2])
def test_keys_that_differ_in_a_symbol_or_two_are_told_apart(
    detector: Detector, marked: np.ndarray, distance: int
) -> None:
    rng = np.random.default_rng(distance)
    keys = [with_other_symbols(KEY, distance, rng) for _ in range(20)]
    verdicts = judge_each(detector.read(marked, RATE), keys)
    assert {(verdict.finding, verdict.distance) for verdict in verdicts} == {(Finding.ANOTHER_KEY, distance)}


def with_other_symbols(key: bytes, count: int, rng: np.random.Generator) -> bytes:
    """Return a key that differs from `key` in so many of its symbols of two bits."""
    places = rng.choice(20, size=count, replace=False)
    change = sum(int(rng.integers(1, 4)) << 2 * int(place) for place in places)
    return (int.from_bytes(key, "big") ^ change).to_bytes(5, "big")


UNIFORM_KEYS = [bytes([byte] * 5) for byte in (0x00, 0x55, 0xAA, 0xFF)]
"""Keys of equal symbols; the first is the published one."""


def test_a_key_of_equal_symbols_is_found_in_its_own_mark(
    detector: Detector, demo_folder: Path, speech: np.ndarray
) -> None:
    twice = np.concatenate([speech, speech])  # the key's bound is 1, and the start symbol alone needs more audio
    verdicts = judge_each(detector.read(stream(demo_folder, twice, UNIFORM_KEYS[0]), RATE), UNIFORM_KEYS)
    assert [verdict.finding for verdict in verdicts] == [Finding.THIS_KEY, *[Finding.ANOTHER_KEY] * 3]


@pytest.mark.parametrize("kind", KINDS)
def test_sounds_that_do_not_change_or_repeat_themselves_are_not_marked(detector: Detector, kind: str) -> None:
    """`make watermark-soak` has 10,000 of them."""
    for seed in range(3):
        rng = np.random.default_rng([7, seed])
        readings = detector.read(stored(KINDS[kind](3 * RATE, rng), rng), RATE)
        verdicts = judge_each(readings, [*UNIFORM_KEYS, KEY, bytes([0, 1, 2, 3, 4])])
        assert not any(verdict.marked for verdict in verdicts)


@pytest.mark.parametrize("hertz", [(224,), (440,), (350, 440), (440, 480)])
def test_tones_of_the_telephone_are_not_marked(detector: Detector, hertz: tuple[int, ...]) -> None:
    t = np.arange(5 * RATE) / RATE
    tones = np.mean([np.sin(2 * np.pi * f * t) for f in hertz], axis=0)
    verdicts = judge_each(detector.read(0.3 * tones.astype(np.float32), RATE), [*UNIFORM_KEYS, KEY])
    assert {verdict.finding for verdict in verdicts} <= {Finding.NO_MARK, Finding.CANNOT_SAY}


def test_a_sound_that_repeats_itself_as_a_mark_would_is_not_judged(detector: Detector, marked: np.ndarray) -> None:
    message = round(0.42 * RATE)
    loops = [np.tile(marked[n * message : (n + 1) * message], 10) for n in range(3, 7)]
    verdicts = [detector.check(loop, RATE, UNIFORM_KEYS[0]) for loop in loops]
    assert not any(verdict.marked for verdict in verdicts)
    assert any("repeats itself every 0.42 s" in verdict.reason for verdict in verdicts)


@pytest.mark.parametrize("seconds", [0.8, 2.0])
@pytest.mark.parametrize("turns", [17, 1_001])
def test_the_ends_of_a_clip_do_not_hide_that_a_tone_repeats(detector: Detector, seconds: float, turns: int) -> None:
    """Its columns differ in phase and are the same again after a message."""
    turned = turns / 0.42 * np.arange(int(seconds * RATE)) / RATE
    readings = detector.read((0.3 * np.sign(turned % 1 - 0.37)).astype(np.float32), RATE)
    assert min(phase.repetition for phase in readings.pieces[0][0].phases) > REPEATING
    assert not any(verdict.marked for verdict in judge_each(readings, [*UNIFORM_KEYS, KEY]))


@pytest.mark.parametrize("speed", [1.03, 48_000 / 44_100])
def test_a_search_finds_the_mark_at_other_speeds(detector: Detector, marked: np.ndarray, speed: float) -> None:
    faster = soxr.resample(marked[RATE : 4 * RATE], RATE * speed, RATE)
    assert not detector.check(faster, RATE, KEY).marked
    verdict = detector.check(faster, RATE, KEY, search=True)
    assert verdict.finding is Finding.THIS_KEY
    assert verdict.speed == pytest.approx(speed, abs=0.005)


@pytest.mark.parametrize("start_s", [0.0, 0.31, 1.7])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_mark_is_found_at_any_rate_and_from_any_start(
    detector: Detector, marked: np.ndarray, start_s: float, rate: int
) -> None:
    part = soxr.resample(marked[int(start_s * RATE) :], RATE, rate)
    assert detector.check(part, rate, KEY).key_matches


@pytest.mark.parametrize("silence_s", [0.3, 2.0])
def test_a_mark_around_digital_silence_is_found(detector: Detector, marked: np.ndarray, silence_s: float) -> None:
    """The gateway puts such silence between utterances for `<break>`; it has no mark itself."""
    recording = np.concatenate([marked, np.zeros(int(silence_s * RATE), np.float32), marked])
    assert detector.check(recording, RATE, KEY).key_matches


def test_a_mark_in_the_middle_of_a_long_recording_is_found(
    detector: Detector, marked: np.ndarray, speech: np.ndarray
) -> None:
    recording = np.concatenate([np.tile(speech, 5)[: 31 * RATE], marked, speech])
    assert detector.check(recording, RATE, KEY).key_matches


@pytest.mark.parametrize("samples", [0, 10, 4_800, 10_080, 12_000])
def test_of_too_short_audio_nothing_is_said(detector: Detector, samples: int, marked: np.ndarray) -> None:
    for audio in (np.zeros(samples, np.float32), marked[24_000 : 24_000 + samples]):
        verdict = detector.check(audio, RATE, KEY)
        assert verdict.finding is Finding.CANNOT_SAY
        assert "too short" in verdict.reason
        assert verdict.seconds == samples / RATE


def test_of_too_quiet_audio_nothing_is_said(detector: Detector, speech: np.ndarray) -> None:
    for quiet in (np.zeros_like(speech), 1e-4 * speech):
        verdict = detector.check(quiet, RATE, KEY)
        assert verdict.finding is Finding.CANNOT_SAY
        assert "too quiet" in verdict.reason


def test_the_network_equals_the_package_at_published_width(tmp_path: Path) -> None:
    published = make_published_folder(tmp_path / "silentcipher")
    audio = 0.05 * np.random.default_rng(0).standard_normal(2_048 * 30).astype(np.float32)
    got = ReadNetwork(published.folder).read(audio).symbols
    network = package_model(tmp_path, published.message_decoder)
    loud = audio * np.sqrt(network.average_energy_VCTK / np.mean(audio**2))
    magnitude, _ = network.stft.transform(torch.from_numpy(loud)[None])
    logits = published.message_decoder(magnitude[:, None])[0, 0].T  # the package pads its clip at the end
    wanted = logits.log_softmax(dim=1).detach().numpy()
    # The package's STFT pads by reflection, ours with zeros; and ours leaves out the column across the start.
    np.testing.assert_allclose(got[10:20], wanted[11:21], rtol=0, atol=1e-5)


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
@given(seed=st.integers(0, 2**32 - 1), kinds=st.integers(1, 4))
def test_the_bound_holds_for_all_orders_of_a_keys_symbols(seed: int, kinds: int) -> None:
    """If columns have nothing to do with any key, no more of 200 random orders of the same symbols seem present than
    the bound allows, whatever the columns' confidence and bias."""
    rng = np.random.default_rng(seed)
    logits = rng.gumbel(size=(120, 5)) * rng.uniform(0.1, 5) + rng.normal(size=5) * rng.uniform(0, 3)
    columns = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    tables = Tables.of([columns, columns[1:], columns[2:]])
    symbols = rng.integers(1, kinds + 1, 20)
    bounds = np.exp([tables.key_bound(rng.permutation(symbols))[0] for _ in range(200)])
    assert (bounds > 0).all()
    assert (bounds < 0.01).sum() <= 9  # at most 2 are expected; 10 have a probability of 5e-5


def test_certain_columns_give_the_least_bound() -> None:
    """20 certain symbols are one of their orders; the reading's weight adds little."""
    symbols = np.array(symbols_of(KEY))[np.arange(84) % MESSAGE]
    columns = np.log(np.where(np.arange(5) == symbols[:, None], 0.99, 0.0025))
    orders = factorial(20) / prod(factorial(KEY_SYMBOLS.count(symbol)) for symbol in set(KEY_SYMBOLS))
    verdict = judge(Readings([[Reading(1.0, [Columns(columns, 0.0)] * 3)]], 2.0, 2.0, 0.42), KEY)
    bound, _ = Tables.of([columns] * 3).key_bound(np.array(KEY_SYMBOLS))
    assert 1 <= np.exp(bound) * orders < 10
    assert verdict.finding is Finding.THIS_KEY
    assert verdict.agreement == 1


KEY_SYMBOLS = symbols_of(KEY)[:-1]


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
    assert verdict["finding"] == "no mark"
    assert set(verdict) == set(Verdict.__dataclass_fields__)
    soundfile.write(tmp_path / "short.wav", speech[:RATE], RATE)
    short = run_check(tmp_path / "short.wav", f"--model={demo_folder}")
    assert (short.exit_code, "cannot say" in short.output) == (5, True)


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
    other = [answer(marked)]
    check_watermarks(other, detector, OTHER_KEY)
    assert other[0].error == "UNMARKED"
