"""The demo model is small, is loaded like any other, and speaks until its sentence ends."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from msgspec.structs import astuple
from safetensors.torch import load_file

from demo.model import REGISTERED, VOICE, make_demo
from demo.picture import draw, words_in_time
from demo.voice import everyday, export, numbers, resume, text
from misotts.config import SAMPLE_RATE, ModelConfig
from misotts.synthesizer import Synthesizer

MODEL_BYTES = 16_500_000


@pytest.fixture(scope="module")
def voice_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "demo"
    make_demo(folder)
    return folder


def test_the_demo_model_is_small_and_states_its_sampling(voice_folder: Path) -> None:
    assert sum(file.stat().st_size for file in voice_folder.iterdir() if file.is_file()) <= MODEL_BYTES
    assert None not in astuple(ModelConfig.load(voice_folder).sampling)


def test_the_demo_model_speaks_until_the_sentence_ends(voice_folder: Path) -> None:
    with Synthesizer.load(voice_folder) as synthesizer:
        chunks = list(synthesizer.stream("Good morning, everyone.", seed=1, max_audio_ms=8_000))
    audio = np.concatenate([chunk.audio for chunk in chunks])
    assert chunks[-1].finish == "eos"
    assert 0.5 < len(audio) / SAMPLE_RATE < 4
    assert 0.01 < np.sqrt(np.square(audio).mean()) < 0.3  # neither silence nor noise at full scale


def test_a_training_that_goes_on_from_the_committed_weights_exports_them_again(tmp_path: Path) -> None:
    resume.restore(tmp_path)
    model = export.language_model(torch.load(tmp_path / "lm-start.pt"))
    committed = load_file(VOICE / "model.safetensors")
    assert model.keys() == committed.keys()
    assert all(torch.equal(model[name], committed[name]) for name in committed)
    for name in ("decoder", "encoder"):
        torch.save({"kept": torch.load(tmp_path / f"{name}-start.pt")}, tmp_path / f"{name}.pt")
    codec, committed = export.mimi(tmp_path), load_file(VOICE / "mimi.safetensors")
    assert all(torch.equal(codec[name], committed[name]) for name in committed)


def test_a_picture_shows_the_words_where_they_are_spoken(tmp_path: Path) -> None:
    said, text = soundfile.read(REGISTERED / "high.flac", dtype="float32")[0], (REGISTERED / "high.txt").read_text()
    draw(said, text, tmp_path / "high.png")
    assert (tmp_path / "high.png").read_bytes().startswith(b"\x89PNG")
    words = words_in_time(said, text)
    assert [word for word, _, _ in words] == re.findall(r"[a-z]+", text.lower())
    edges = [edge for _, begin, end in words for edge in (begin, end)]
    assert edges == sorted(edges)
    assert edges[-1] < len(said) / SAMPLE_RATE
    assert words_in_time(said, "Qwxyz is no word.") == []


def test_numbers_and_abbreviations_are_learnt_by_their_words() -> None:
    assert numbers.in_words(40_365) == "forty thousand three hundred sixty five"
    assert [numbers.year(year) for year in (1905, 1987, 2000, 2007)] == [
        *("nineteen oh five", "nineteen eighty seven", "two thousand", "two thousand seven")
    ]
    assert [numbers.ordinal_suffix(n) + " " + numbers.ordinal(n) for n in (2, 11, 20, 93)] == [
        *("2nd second", "11th eleventh", "20th twentieth", "93rd ninety third")
    ]
    rng, nouns = random.Random(0), {kind: ["shoe"] for kind in everyday.KINDS}
    for _ in range(200):
        assert not re.search(r"[0-9%$:]", numbers.sentence(rng, nouns)[1])


def test_no_judged_sentence_is_learnt() -> None:
    assert all(text.is_held_out(sentence) for sentence in [*text.held_out(), *numbers.JUDGED.values()])
    assert text.is_held_out("Mister Smith said that the room costs eighty five euros")
    assert not text.is_held_out("Mister Smith said that the room was cold")
