"""The sources of the watermark's key, and keys that are refused without being shown."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from misotts.cli.main import app
from misotts.serve.settings import ServeOptions
from misotts.watermark.key import KEY_ENV, REFERENCE_KEY, WatermarkKeyError, is_weak, read_key

KEY = bytes([1, 2, 3, 250, 255])


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("010203FAff\n")
    assert read_key(file) == KEY
    monkeypatch.setenv(KEY_ENV, "07fa008540")
    assert read_key(None) == bytes([7, 250, 0, 133, 64])
    assert read_key(file) == KEY, "a file on the command line precedes the environment"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0102", "must be 10 hexadecimal digits"),
        ("0102030405ab", "must be 10 hexadecimal digits"),
        ("secretword", "must be 10 hexadecimal digits"),
        ("", "must be 10 hexadecimal digits"),
        ("0000000000", "published one"),
        ("0102030405", "weak"),
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


def test_keys_near_the_published_one_or_of_few_symbols_are_weak() -> None:
    for one in range(20):
        for other in range(20):
            for change in range(16):
                near = int.from_bytes(REFERENCE_KEY, "big") ^ (change & 3) << 2 * one ^ (change >> 2) << 2 * other
                assert is_weak(near.to_bytes(5, "big"))
    assert all(is_weak(bytes(some)) for some in ([0xAA] * 5, [0, 1, 2, 3, 4], [0x55, 0xAA, 0x55, 0xAA, 0x55]))
    assert not any(is_weak(key) for key in (KEY, b"hello", b"\x1b" * 5))
    rng = np.random.default_rng(0)
    assert sum(is_weak(rng.bytes(5)) for _ in range(2_000)) <= 8, "one of a thousand random keys is weak"


def test_a_weak_key_may_be_allowed(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("0102030405")
    assert read_key(file, allow_weak=True) == bytes([1, 2, 3, 4, 5])
    refused = CliRunner().invoke(app, ["serve", f"--watermark-key-file={file}", f"--model={tmp_path / 'none'}"])
    assert (refused.exit_code, "--allow-weak-key" in refused.output) == (1, True)
    allowed = CliRunner().invoke(
        app, ["serve", f"--watermark-key-file={file}", "--allow-weak-key", f"--model={tmp_path / 'none'}"]
    )
    assert "config.json is missing" in allowed.output


def test_the_command_makes_a_random_key_that_its_owner_alone_reads(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "other"]
    for file in files:
        done = CliRunner().invoke(app, ["watermark", "key", str(file)])
        assert done.exit_code == 0, done.output
        assert file.stat().st_mode & 0o777 == 0o600
        assert read_key(file).hex() not in done.output
    assert read_key(files[0]) != read_key(files[1])
    again = CliRunner().invoke(app, ["watermark", "key", str(files[0])])
    assert (again.exit_code, str(files[0]) in again.output) == (1, True)


def test_options_do_not_show_the_key() -> None:
    assert KEY.hex() not in repr(ServeOptions(model=Path("m"), watermark_key=KEY))
    assert repr(KEY) not in repr(ServeOptions(model=Path("m"), watermark_key=KEY))
