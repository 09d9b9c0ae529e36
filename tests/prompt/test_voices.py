"""A folder of voices: reading, adding and removing voices, and the errors of broken ones."""

import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from misotts.prompt.voice_files import read_clip
from misotts.prompt.voices import Voices, add_voice, remove_voice
from misotts_client.contract import VOICE_NAME, check_voice_name
from misotts_client.errors import FieldError, InvalidArgument, NotFound
from tests.support.clips import WORDS, tone, write

Patch = pytest.MonkeyPatch


@given(st.text(max_size=80) | st.from_regex(VOICE_NAME))
def test_a_name_is_short_and_plain_or_refused(name: str) -> None:
    plain = set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") and 1 <= len(name) <= 64
    if plain:
        check_voice_name(name)
    else:
        with pytest.raises(InvalidArgument, match="must match"):
            check_voice_name(name)


TRICKS = ["", ".", "..", "../ann", "/ann", "a/b", "a\\b", "ann.wav", "Ann", "ann ", "ann\n", "ann\0", "änn", "a" * 65]


@pytest.mark.parametrize("name", TRICKS)
def test_a_path_is_not_a_name(folder: Path, clip: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    for use in (
        lambda: Voices(folder).segment(name, 0),
        lambda: Voices(folder).version(name),
        lambda: add_voice(folder, name, clip, WORDS),
        lambda: remove_voice(folder, name),
    ):
        with pytest.raises(InvalidArgument, match="must match"):
            use()
    assert sorted(folder.parent.rglob("*")) == before


def test_a_voice_has_its_words_and_its_clip(folder: Path) -> None:
    segment = Voices(folder).segment("ann", speaker=7)
    assert (segment.text, segment.speaker) == (WORDS, 7)
    np.testing.assert_allclose(segment.audio, tone(), rtol=0, atol=1e-4)


def test_no_folder_has_no_voices() -> None:
    assert Voices(None).names() == []
    with pytest.raises(NotFound, match="no voice named 'ann'"):
        Voices(None).version("ann")


def without(file: Path) -> Path:
    """Delete a file and return its path, for something else in its place."""
    file.unlink()
    return file


def link_to_a_pipe(wav: Path, txt: Path) -> None:
    os.mkfifo(wav.with_name("pipe"))
    without(wav).symlink_to("pipe")


LEAVES, MISSING = "is a link that leaves the folder", "is a link to a missing file"
BROKEN: dict[str, tuple[Callable[[Path, Path], Any], type[FieldError], str]] = {
    "no clip": (lambda wav, txt: wav.unlink(), NotFound, "'ann' has no clip"),
    "no text": (lambda wav, txt: txt.unlink(), NotFound, "'ann' has no text"),
    "folder": (lambda wav, txt: without(wav).mkdir(), NotFound, "'ann' has no clip"),
    "pipe": (lambda wav, txt: os.mkfifo(without(wav)), NotFound, "'ann' has no clip"),
    "two clips": (lambda wav, txt: wav.with_suffix(".flac").touch(), InvalidArgument, "one clip: ann.wav, ann.flac"),
    "noise": (lambda wav, txt: wav.write_bytes(os.urandom(1_000)), InvalidArgument, "not a WAV, FLAC, MP3 or Ogg"),
    "truncated": (lambda wav, txt: os.truncate(wav, 30_000), InvalidArgument, "it ends 42044 bytes before"),
    "spaces": (lambda wav, txt: txt.write_text(" \n"), InvalidArgument, "text must contain the words"),
    "latin-1": (lambda wav, txt: txt.write_bytes(b"caf\xe9"), InvalidArgument, "text must be UTF-8"),
    "clip linked out": (lambda wav, txt: without(wav).symlink_to(__file__), InvalidArgument, f"ann.wav {LEAVES}"),
    "text linked out": (lambda wav, txt: without(txt).symlink_to(__file__), InvalidArgument, f"ann.txt {LEAVES}"),
    "link to nothing": (lambda wav, txt: without(wav).symlink_to("gone.wav"), InvalidArgument, f"ann.wav {MISSING}"),
    "link to itself": (lambda wav, txt: without(wav).symlink_to("ann.wav"), InvalidArgument, f"ann.wav {MISSING}"),
    "link to a pipe": (link_to_a_pipe, InvalidArgument, f"ann.wav {MISSING}"),
}


def damage(folder: Path, case: str) -> None:
    BROKEN[case][0](folder / "ann.wav", folder / "ann.txt")


@pytest.mark.timeout(20)  # opening a pipe would block
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_voice_is_named_and_shows_no_path(folder: Path, case: str) -> None:
    _, kind, words = BROKEN[case]
    damage(folder, case)
    with pytest.raises(kind, match=words) as caught:
        Voices(folder).segment("ann", 0)
    assert caught.value.field == "VOICE"
    assert "/" not in str(caught.value)
    assert Voices(folder).names() == ["ann"], "an operator must see it in the list"


def test_a_huge_file_is_refused_without_being_read(folder: Path) -> None:
    """3 GB that a sparse file pretends to have."""
    for suffix, words in ((".txt", "must be at most 65536 bytes"), (".wav", "not usable")):
        path = folder / f"ann{suffix}"
        earlier = path.read_bytes()
        os.truncate(path, 3 * 2**30)
        began, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(InvalidArgument, match=words):
            Voices(folder).segment("ann", 0)
        assert time.monotonic() - began < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000, "KB"
        path.write_bytes(earlier)


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    """Kubernetes mounts a ConfigMap like this: ann.wav -> ..data/ann.wav, ..data -> ..2026_1/."""
    (folder / "..2026_1").mkdir()
    (folder / "..data").symlink_to("..2026_1")
    for name in ("ann.wav", "ann.txt"):
        (folder / name).rename(folder / "..2026_1" / name)
        (folder / name).symlink_to(f"..data/{name}")
    assert Voices(folder).segment("ann", 0).text == WORDS
    assert Voices(folder).names() == ["ann"]


@pytest.mark.parametrize("name", ["ann.wav", "ann.txt"])
def test_a_changed_file_is_a_new_version(folder: Path, name: str) -> None:
    voices = Voices(folder)
    before = voices.version("ann")
    assert voices.version("ann") == before
    changed = folder / name
    stat, content = changed.stat(), changed.read_bytes()
    (folder / "new").write_bytes(content[:-1] + b"!")
    os.utime(folder / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (folder / "new").replace(changed)  # of the same length and age
    assert voices.version("ann") != before


def test_an_added_voice_has_the_given_clip_and_words(folder: Path, clip: Path) -> None:
    add_voice(folder, "new", clip, f" {WORDS} Café.\n")
    segment = Voices(folder).segment("new", 0)
    assert segment.text == f" {WORDS} Café."  # the tokenizer treats white space at the beginning as TEXT's
    np.testing.assert_allclose(segment.audio, read_clip(clip), rtol=0, atol=2**-23)
    stored = soundfile.info(folder / "new.flac")
    assert (stored.format, stored.samplerate, stored.channels) == ("FLAC", 24_000, 1)
    assert sorted(file.name for file in folder.iterdir()) == ["ann.txt", "ann.wav", "new.flac", "new.txt"]


def test_a_clip_beyond_full_scale_is_clipped_and_does_not_overflow(folder: Path, tmp_path: Path) -> None:
    add_voice(folder, "loud", write(tmp_path / "loud.wav", tone(level=1.3), subtype="FLOAT"), WORDS)
    np.testing.assert_allclose(Voices(folder).segment("loud", 0).audio, tone(level=1.3).clip(-1, 1), rtol=0, atol=1e-6)


def test_an_existing_voice_is_replaced_only_on_request(folder: Path, clip: Path) -> None:
    with pytest.raises(InvalidArgument, match="the voice 'ann' already exists"):
        add_voice(folder, "ann", clip, "New words.")
    assert Voices(folder).segment("ann", 0).text == WORDS
    add_voice(folder, "ann", clip, "New words.", replace=True)
    segment = Voices(folder).segment("ann", 0)
    assert (segment.text, len(segment.audio)) == ("New words.", 48_000)


@pytest.mark.parametrize(("text", "seconds"), [("", 2.0), ("caf\udce9", 2.0), ("\ud800", 2.0), (WORDS, 0.5)])
def test_a_refused_voice_leaves_everything_as_it_was(folder: Path, tmp_path: Path, text: str, seconds: float) -> None:
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InvalidArgument, match="the voice 'ann' is not usable"):
        add_voice(folder, "ann", write(tmp_path / "new.wav", tone(seconds)), text, replace=True)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_disk_that_fills_up_leaves_everything_as_it_was(folder: Path, clip: Path, monkeypatch: Patch) -> None:
    def full(self: Path, _: bytes) -> int:
        raise OSError(28, "No space left on device")

    before = {file: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        add_voice(folder, "ann", clip, WORDS, replace=True)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_crash_between_the_two_files_leaves_no_voice(folder: Path, clip: Path, monkeypatch: Patch) -> None:
    real = Path.replace

    def crash(self: Path, target: Path) -> Path:
        if target.suffix == ".flac":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        add_voice(folder, "new", clip, WORDS)
    with pytest.raises(NotFound, match="'new' has no clip"):
        Voices(folder).segment("new", 0)
    remove_voice(folder, "new")
    assert Voices(folder).names() == ["ann"]


def test_a_reader_never_gets_the_words_of_another_clip(folder: Path, clip: Path, monkeypatch: Patch) -> None:
    """The voice is replaced when its clip is open and its text is not yet."""
    real, replaced = Path.open, threading.Event()

    def replace_before_text(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "ann.txt" and args == ("rb",) and not replaced.is_set():
            replaced.set()
            add_voice(folder, "ann", clip, "New words.", replace=True)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", replace_before_text)
    with pytest.raises(NotFound):  # the clip that it found is gone
        Voices(folder).segment("ann", 0)
    assert replaced.is_set()
    segment = Voices(folder).segment("ann", 0)
    assert (segment.text, len(segment.audio)) == ("New words.", 48_000)


@pytest.mark.timeout(60)
def test_words_and_clip_stay_together_during_many_replacements(folder: Path, tmp_path: Path) -> None:
    takes = {f"{seconds} s": write(tmp_path / f"{seconds}.wav", tone(seconds)) for seconds in (1, 2)}
    add_voice(folder, "ann", takes["1 s"], "1 s", replace=True)
    done = threading.Event()

    def replace() -> None:
        for _ in range(60):
            for text, take in takes.items():
                add_voice(folder, "ann", take, text, replace=True)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = set()
    while not done.is_set():
        try:
            segment = Voices(folder).segment("ann", 0)
        except NotFound:
            continue
        assert segment.text == f"{len(segment.audio) // 24_000} s"
        seen.add(segment.text)
    writer.join()
    assert seen == set(takes)


@pytest.mark.parametrize("case", ["two clips", "no clip", "no text", "noise", "link to nothing", "link to itself"])
def test_remove_deletes_all_files_of_a_voice(folder: Path, case: str) -> None:
    damage(folder, case)
    remove_voice(folder, "ann")
    assert list(folder.iterdir()) == []
    with pytest.raises(NotFound, match="no voice named 'ann'"):
        remove_voice(folder, "ann")
