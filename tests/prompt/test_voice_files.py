"""Clips and texts of voices: formats, rates, limits, and the errors of files that are unfit."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from misotts.prompt.voice_files import VoiceError, read_clip, read_text
from tests.support.clips import tone, write


@pytest.mark.parametrize(
    ("suffix", "rate", "tolerance"),
    [
        (".wav", 24_000, 1e-4),
        (".wav", 8_000, 1e-3),
        (".wav", 48_000, 1e-3),
        (".flac", 16_000, 1e-3),
        (".flac", 44_100, 1e-3),
        (".mp3", 24_000, 2e-2),
        (".mp3", 44_100, 2e-2),
    ],
)
def test_a_clip_of_any_format_and_rate_is_read(tmp_path: Path, suffix: str, rate: int, tolerance: float) -> None:
    audio = read_clip(write(tmp_path / f"clip{suffix}", tone(rate=rate), rate))
    assert audio.dtype == np.float32
    middle = slice(6_000, 30_000)  # resamplers and MP3 change the edges
    np.testing.assert_allclose(audio[middle], tone()[middle], rtol=0, atol=tolerance)


def test_two_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([tone(level=0.4), np.zeros(36_000)], axis=1)
    np.testing.assert_allclose(read_clip(write(tmp_path / "clip.wav", stereo)), tone(level=0.2), rtol=0, atol=1e-4)


def test_a_tone_above_half_the_new_rate_is_not_aliased(tmp_path: Path) -> None:
    high = 0.3 * np.sin(2 * np.pi * 20_000 * np.arange(72_000) / 48_000)
    assert np.abs(read_clip(write(tmp_path / "clip.wav", high, 48_000))[2_000:-2_000]).max() < 1e-3


BAD_CLIPS = {
    "short": (tone(0.5), 24_000, r"length must be 1 to 30 s, it is 0.5 s"),
    "long": (tone(30.5, 8_000), 8_000, r"length must be 1 to 30 s, it is longer"),
    "slow": (tone(2, 4_000), 4_000, r"rate must be 8000 to 192000 Hz, it is 4000 Hz"),
    "channels": (np.stack([tone()] * 3, axis=1), 24_000, r"1 or 2 channels, it has 3"),
    "silent": (np.zeros(36_000), 24_000, r"loudness must be -60 to 0 dBFS, it is -inf dBFS"),
    "faint": (tone(level=1e-3), 24_000, r"loudness must be -60 to 0 dBFS, it is -63.01 dBFS"),
    "offset": (np.full(36_000, 0.5), 24_000, r"loudness must be -60 to 0 dBFS, it is -(inf|\d+\.\d+) dBFS"),
    "opposed": (np.stack([tone(), -tone()], axis=1), 24_000, r"loudness must be -60 to 0 dBFS"),
    "integers": (tone(level=30_000), 24_000, r"loudness must be -60 to 0 dBFS, it is 86.532 dBFS"),
    "nan": (np.append(tone(), np.nan), 24_000, r"finite, it has NaN or infinity"),
    "infinite": (np.append(tone(), np.inf), 24_000, r"finite, it has NaN or infinity"),
}


@pytest.mark.parametrize(("audio", "rate", "words"), BAD_CLIPS.values(), ids=BAD_CLIPS.keys())
def test_a_clip_out_of_its_limits(tmp_path: Path, audio: np.ndarray, rate: int, words: str) -> None:
    with pytest.raises(VoiceError, match=words):
        read_clip(write(tmp_path / "clip.wav", audio, rate, "FLOAT"))


def test_a_clip_of_hours_is_refused_without_reading_all_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.flac", np.zeros(8_000 * 3_600), 8_000)
    tracemalloc.start()
    with pytest.raises(VoiceError, match="length must be 1 to 30 s, it is longer"):
        read_clip(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 8_000 * 90  # bytes of 90 s


@pytest.mark.parametrize("seconds", [1, 30])
def test_the_limits_of_the_length_are_inclusive(tmp_path: Path, seconds: int) -> None:
    assert len(read_clip(write(tmp_path / "clip.wav", tone(seconds)))) == seconds * 24_000


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.raw"])
@pytest.mark.parametrize("content", [b"", b"no audio at all", bytes(5_000)])
def test_a_file_that_is_not_audio(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VoiceError, match="or is damaged"):
        read_clip(tmp_path / name)


def test_a_truncated_flac_file(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.flac", tone())
    path.write_bytes(path.read_bytes()[:9_000])
    with pytest.raises(VoiceError, match="damaged"):
        read_clip(path)


@pytest.mark.parametrize("raw", [b"Caf\xc3\xa9", b"\xef\xbb\xbfCaf\xc3\xa9\r\n", b"Caf\xc3\xa9\t"])
def test_a_byte_order_mark_and_space_behind_the_words_are_dropped(raw: bytes) -> None:
    assert read_text(raw) == "Café"
    assert read_text(b"\n " + raw.removeprefix(b"\xef\xbb\xbf")) == "\n Café", "as in TEXT"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"caf\xe9", "must be UTF-8, byte 3 is not"),
        (("é" * 4_001).encode(), "at most 4000 code points long, it is 4001"),
    ],
    ids=["empty", "spaces", "latin-1", "long"],
)
def test_a_text_out_of_its_limits(raw: bytes, words: str) -> None:
    with pytest.raises(VoiceError, match=words):
        read_text(raw)


def test_the_longest_text_ends_in_a_newline() -> None:
    assert len(read_text(("é" * 4_000 + "\n").encode())) == 4_000
