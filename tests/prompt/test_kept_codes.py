"""Registered voices are encoded before the first request, and their codes kept on disk."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES, SAMPLE_RATE, ModelConfig
from misotts.prompt.builder import Prompter
from misotts.prompt.kept_codes import FOLDER, KeptCodes, codec_name
from misotts.prompt.voice_files import write_clip
from misotts.prompt.voices import Voices
from misotts_client.request import SpeechRequest


class Codec:
    """Notes the clips that it encodes."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def encode(self, audio: np.ndarray, pause: Callable[[], None]) -> np.ndarray:
        self.lengths.append(len(audio))
        frames = -(-len(audio) // FRAME_SAMPLES)
        return np.arange(frames * 32, dtype=np.int32).reshape(frames, 32)


def clip(seconds: float) -> np.ndarray:
    return (0.1 * np.sin(np.arange(int(seconds * SAMPLE_RATE)) / 9)).astype(np.float32)


def nothing() -> None:
    pass


def test_a_clip_is_encoded_once_for_a_codec(tmp_path: Path) -> None:
    codec = Codec()
    first = KeptCodes(tmp_path, "codec 1", codec.encode)
    codes = first.encode(clip(2), nothing)
    for kept in (first, KeptCodes(tmp_path, "codec 1", codec.encode)):
        assert (kept.encode(clip(2), nothing) == codes).all()
    assert len(codec.lengths) == 1
    KeptCodes(tmp_path, "codec 2", codec.encode).encode(clip(2), nothing)
    first.encode(clip(3), nothing)
    assert len(codec.lengths) == 3


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"x" * 99])
def test_a_damaged_file_is_written_again(tmp_path: Path, content: bytes) -> None:
    codec = Codec()
    kept = KeptCodes(tmp_path, "codec", codec.encode)
    codes = kept.encode(clip(1), nothing)
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_bytes(content)
    assert (kept.encode(clip(1), nothing) == codes).all()
    assert (kept.encode(clip(1), nothing) == codes).all()
    assert len(codec.lengths) == 2


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    codec = Codec()
    for voices in (tmp_path, None):
        KeptCodes(voices, "codec", codec.encode).encode(clip(1), nothing)
    assert len(codec.lengths) == 2


def test_files_without_a_voice_are_deleted(tmp_path: Path) -> None:
    old = KeptCodes(tmp_path, "old", Codec().encode)
    old.encode(clip(1), nothing)
    kept = KeptCodes(tmp_path, "new", Codec().encode)
    kept.encode(clip(1), nothing)
    (tmp_path / FOLDER / "broken-off.npy.123").write_bytes(b"\x93NUMPY")
    kept.forget_others()
    codec = Codec()
    KeptCodes(tmp_path, "new", codec.encode).encode(clip(1), nothing)
    assert codec.lengths == []
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_a_codec_is_its_file_and_its_device(tmp_path: Path) -> None:
    weights = tmp_path / "mimi.safetensors"
    weights.write_bytes(b"1")
    names = {codec_name(weights, "cpu"), codec_name(weights, "cuda")}
    weights.write_bytes(b"22")
    assert len(names | {codec_name(weights, "cpu")}) == 3


def test_registered_voices_need_no_encoding_when_they_are_asked_for(
    tmp_path: Path, demo_folder: Path, config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("anna", 2), ("bert", 3)):
        (tmp_path / f"{name}.flac").write_bytes(write_clip(clip(seconds)))
        (tmp_path / f"{name}.txt").write_text("The words.")
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    (tmp_path / "broken.txt").write_text("The words.")
    codec, begun = Codec(), list[str]()

    def started() -> Prompter:
        kept = KeptCodes(tmp_path, "codec", codec.encode)
        prompter = Prompter(demo_folder, config, codec.encode, Voices(tmp_path), encode_voice=kept.encode)
        prompter.load_voices(begun.append)
        return prompter

    with caplog.at_level(logging.WARNING):
        prompter = started()
    assert begun == ["anna", "bert", "broken"]
    assert len(codec.lengths) == 2
    assert "'broken'" in caplog.text
    for name in ("anna", "bert"):
        assert not prompter.check(SpeechRequest("Hello.", voice=name)).encodes
    # Another speaker's number and another start read the file.
    prompter.build(SpeechRequest("Hello.", voice="anna", speaker=1))
    started()
    assert len(codec.lengths) == 2
