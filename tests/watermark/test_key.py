"""The sources of the watermark's key, and keys that are refused without being shown."""

from pathlib import Path

import pytest

from misotts.serve.settings import ServeOptions
from misotts.watermark.key import KEY_ENV, WatermarkKeyError, read_key

KEY = bytes([1, 2, 3, 250, 255])


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("010203FAff\n")
    assert read_key(file) == KEY
    monkeypatch.setenv(KEY_ENV, "0102030405")
    assert read_key(None) == bytes([1, 2, 3, 4, 5])
    assert read_key(file) == KEY, "a file on the command line precedes the environment"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0102", "must be 10 hexadecimal digits"),
        ("0102030405ab", "must be 10 hexadecimal digits"),
        ("secretword", "must be 10 hexadecimal digits"),
        ("", "must be 10 hexadecimal digits"),
        ("0000000000", "published one"),
    ],
)
def test_a_bad_key_is_refused_and_not_shown(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(WatermarkKeyError, match=words) as caught:
        read_key(file)
    assert not text or text not in str(caught.value)


def test_a_missing_key_is_refused_with_the_options_that_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    with pytest.raises(WatermarkKeyError, match="--watermark-key-file or set MISOTTS_WATERMARK_KEY"):
        read_key(None)
    with pytest.raises(WatermarkKeyError, match="No such file"):
        read_key(tmp_path / "nowhere")


def test_options_do_not_show_the_key() -> None:
    assert KEY.hex() not in repr(ServeOptions(model=Path("m"), watermark_key=KEY))
    assert repr(KEY) not in repr(ServeOptions(model=Path("m"), watermark_key=KEY))
