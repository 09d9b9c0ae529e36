"""A folder of voices: reading, adding and removing voices, and the errors of broken ones."""

from __future__ import annotations

import os
import threading
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
from tests.support.clips import WORDS, folder_with_ann, tone, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_with_ann(tmp_path / "voices")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "new.wav", tone(2, level=0.1))


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


def no_clip(folder: Path) -> None:
    (folder / "ann.wav").unlink()


def no_text(folder: Path) -> None:
    (folder / "ann.txt").unlink()


def a_folder_for_a_clip(folder: Path) -> None:
    no_clip(folder)
    (folder / "ann.wav").mkdir()


def a_pipe_for_a_clip(folder: Path) -> None:
    no_clip(folder)
    os.mkfifo(folder / "ann.wav")


def two_clips(folder: Path) -> None:
    write(folder / "ann.flac", tone())


def a_clip_of_noise(folder: Path) -> None:
    (folder / "ann.wav").write_bytes(os.urandom(1_000))


def a_truncated_clip(folder: Path) -> None:
    (folder / "ann.wav").write_bytes((folder / "ann.wav").read_bytes()[:30_000])


def spaces_for_a_text(folder: Path) -> None:
    (folder / "ann.txt").write_text(" \n")


def a_text_in_latin_1(folder: Path) -> None:
    (folder / "ann.txt").write_bytes(b"caf\xe9")


def link(folder: Path, target: Path) -> None:
    no_clip(folder)
    (folder / "ann.wav").symlink_to(target)


def a_link_out(folder: Path) -> None:
    link(folder, write(folder.parent / "secret.wav", tone()))


def a_text_linked_out(folder: Path) -> None:
    (folder.parent / "secret.txt").write_text("secret")
    no_text(folder)
    (folder / "ann.txt").symlink_to("../secret.txt")


def a_link_to_nothing(folder: Path) -> None:
    link(folder, folder / "gone.wav")


def a_link_to_itself(folder: Path) -> None:
    link(folder, folder / "ann.wav")


def a_link_to_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    link(folder, folder / "pipe")


BROKEN = [
    (no_clip, NotFound, "'ann' has no clip"),
    (no_text, NotFound, "'ann' has no text"),
    (a_folder_for_a_clip, NotFound, "'ann' has no clip"),
    (a_pipe_for_a_clip, NotFound, "'ann' has no clip"),
    (two_clips, InvalidArgument, "more than one clip: ann.wav, ann.flac"),
    (a_clip_of_noise, InvalidArgument, "not a WAV, FLAC or MP3"),
    (a_truncated_clip, InvalidArgument, "length must be 1 to 30 s, it is 0.62"),
    (spaces_for_a_text, InvalidArgument, "text must contain the words"),
    (a_text_in_latin_1, InvalidArgument, "text must be UTF-8"),
    (a_link_out, InvalidArgument, "ann.wav is a link that leaves the folder"),
    (a_text_linked_out, InvalidArgument, "ann.txt is a link that leaves the folder"),
    (a_link_to_nothing, InvalidArgument, "ann.wav is a link to a missing file"),
    (a_link_to_itself, InvalidArgument, "ann.wav is a link to a missing file"),
    (a_link_to_a_pipe, InvalidArgument, "ann.wav is a link to a missing file"),
]


@pytest.mark.timeout(20)  # opening a pipe would block
@pytest.mark.parametrize(("damage", "kind", "words"), BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_a_broken_voice_is_named_and_shows_no_path(
    folder: Path, damage: Callable[[Path], None], kind: type[FieldError], words: str
) -> None:
    damage(folder)
    with pytest.raises(kind, match=words) as caught:
        Voices(folder).segment("ann", 0)
    assert caught.value.field == "VOICE"
    assert "/" not in str(caught.value)
    assert Voices(folder).names() == ["ann"], "an operator must see it in the list"


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
    assert segment.text == f"{WORDS} Café."
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


def test_a_disk_that_fills_up_leaves_everything_as_it_was(
    folder: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, _: bytes) -> int:
        raise OSError(28, "No space left on device")

    before = {file: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        add_voice(folder, "ann", clip, WORDS, replace=True)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_crash_between_the_two_files_leaves_no_voice(
    folder: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_reader_never_gets_the_words_of_another_clip(
    folder: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("damage", [two_clips, no_clip, no_text, a_clip_of_noise, a_link_to_nothing, a_link_to_itself])
def test_remove_deletes_all_files_of_a_voice(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    remove_voice(folder, "ann")
    assert list(folder.iterdir()) == []
    with pytest.raises(NotFound, match="no voice named 'ann'"):
        remove_voice(folder, "ann")
