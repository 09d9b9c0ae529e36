"""Audio files as other programs leave them: `misotts voices add` hears the whole file, or refuses it by name."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from misotts.cli.main import app
from tests.support.clips import tone


def encoded(format: str, seconds: float = 3.0, rate: int = 24_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds, rate), rate, format=format)
    return file.getvalue()


def mp3(*, stated_frames: int | None = None) -> bytes:
    """An MP3 with a Xing header that states a number of frames, or one without that header."""
    whole = encoded("MP3")
    if stated_frames is None:
        return whole[whole.index(whole[:2], 4) :]
    at = whole.index(b"Xing") + 8
    return whole[:at] + struct.pack(">I", stated_frames) + whole[at + 4 :]


def tagged_mp3() -> bytes:
    size = bytes([0, 0, 15, 80])  # 2000 in digits of 7 bits
    return b"ID3\x03\x00\x00" + size + bytes(2_000) + encoded("MP3") + b"TAG" + bytes(125)


def flac(stated_seconds: float) -> bytes:
    whole = bytearray(encoded("FLAC"))
    whole[21:26] = bytes([whole[21] & 0xF0]) + struct.pack(">I", round(24_000 * stated_seconds))
    return bytes(whole)


def wav(stated_bytes: int) -> bytes:
    whole = encoded("WAV")
    at = whole.index(b"data") + 4
    return whole[:at] + struct.pack("<I", stated_bytes) + whole[at + 4 :]


def damaged(whole: bytes) -> bytes:
    half, noise = len(whole) // 2, np.random.default_rng(0).bytes(300)
    return whole[:half] + noise + whole[half + len(noise) :]


WHOLE = {
    "two.mp3": (encoded("MP3") * 2, 6.0),
    "two-with-tags.mp3": (tagged_mp3() * 2, 6.0),
    "piped.mp3": (mp3(), 3.0),
    "piped-two.mp3": (mp3() * 2, 6.0),
    "states-less.mp3": (mp3(stated_frames=20), 3.0),
    "states-nothing.mp3": (mp3(stated_frames=0), 3.0),
    "piped.flac": (flac(0), 3.0),
    "states-less.flac": (flac(1), 3.0),
    "two.flac": (encoded("FLAC") * 2, 6.0),
    "piped-ffmpeg.wav": (wav(2**32 - 1), 3.0),
    "piped-arecord.wav": (wav(2**31), 3.0),
    "piped-sox.wav": (wav(0x7FFF_F000), 3.0),
    "states-nothing.wav": (wav(0), 3.0),
    "list-behind.wav": (encoded("WAV") + b"LIST" + struct.pack("<I", 4) + b"INFO", 3.0),
    "chained.ogg": (encoded("OGG") * 2, 6.0),
    "x.raw": (encoded("WAV"), 3.0),
}
REFUSED = {
    "two.wav": encoded("WAV") * 2,
    "states-less.wav": wav(48_000),
    "cut.wav": encoded("WAV")[:-50_000],
    "states-more.flac": flac(9),
    "cut.flac": encoded("FLAC")[:-9_000],
    "damaged.flac": damaged(encoded("FLAC")),
    "damaged.mp3": damaged(encoded("MP3")),
    "two-rates.mp3": encoded("MP3") + encoded("MP3", rate=44_100),
    "two-rates.ogg": encoded("OGG") + encoded("OGG", rate=44_100),
    "cut.ogg": encoded("OGG")[:5_000],
    "nothing.wav": b"",
    "playlist.mp3": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n",
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_is_heard_to_its_end(tmp_path: Path, folder: Path, name: str) -> None:
    content, seconds = WHOLE[name]
    (tmp_path / name).write_bytes(content)
    added = CliRunner().invoke(app, ["voices", "add", "new", str(tmp_path / name), "--text=a", f"--voices={folder}"])
    assert added.exit_code == 0, added.stderr
    assert float(added.stdout.split()[2]) == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_heard_to_its_end_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    (tmp_path / name).write_bytes(REFUSED[name])
    added = CliRunner().invoke(app, ["voices", "add", "new", str(tmp_path / name), "--text=a", f"--voices={folder}"])
    assert added.exit_code == 1
    (line,) = added.stderr.splitlines()
    assert "the clip" in line
    assert not (folder / "new.flac").exists()
