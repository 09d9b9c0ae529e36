"""Registered voices: a folder of `<name>.wav|flac|mp3` with the words spoken in `<name>.txt`.

A voice exists as long as its clip does. Adding writes the text first and the clip last; removing deletes the clip
first. So a reader that finds the same clip before and after it opens the text has the two that belong together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from misotts.prompt.voice_files import MAX_TEXT_BYTES, VoiceError, read_clip, read_text, write_clip
from misotts_client.contract import check_voice_name
from misotts_client.errors import InvalidArgument, NotFound
from misotts_client.request import Segment

CLIP_SUFFIXES = (".wav", ".flac", ".mp3")
TEXT_SUFFIX = ".txt"


class Voices:
    """The voices of a folder. They are read when they are requested, so adding one needs no restart."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Return every name that has a clip or a text, sorted; also names that `segment` refuses."""
        files = self._folder.iterdir() if self._folder else ()
        known = (*CLIP_SUFFIXES, TEXT_SUFFIX)
        return sorted({file.stem for file in files if file.suffix in known and not file.name.startswith(".")})

    def version(self, name: str) -> tuple[int, ...]:
        """Return numbers that change whenever the clip or the text of the voice does.

        Raises:
            InvalidArgument: not the name of a voice, or its files are not usable.
            NotFound: there is no such voice.
        """
        with _errors_of(name):
            stats = [file.stat() for file in self._files(name)]
        return tuple(number for stat in stats for number in (stat.st_ino, stat.st_ctime_ns, stat.st_size))

    def segment(self, name: str, speaker: int) -> Segment:
        """Return the voice as the oldest segment of a prompt, spoken by `speaker`.

        Raises:
            InvalidArgument: not the name of a voice, or its files are not usable.
            NotFound: there is no such voice.
        """
        with _errors_of(name):
            clip, text = self._files(name)
            with clip.open("rb") as sound, text.open("rb") as words:
                if os.path.samestat(os.fstat(sound.fileno()), clip.stat()):
                    return Segment(read_text(words.read(MAX_TEXT_BYTES + 1)), speaker, read_clip(sound))
        return self.segment(name, speaker)  # it has just been replaced

    def _files(self, name: str) -> tuple[Path, Path]:
        """Return the clip and the text of the voice."""
        check_voice_name(name)
        clips = _present(self._folder, name, CLIP_SUFFIXES) if self._folder else []
        texts = _present(self._folder, name, [TEXT_SUFFIX]) if self._folder else []
        if not self._folder or not (clips or texts):
            raise NotFound("VOICE", f"no voice named {name!r} is registered")
        if not clips or not texts:
            raise NotFound("VOICE", f"the voice {name!r} has no {'text' if clips else 'clip'}")
        if len(clips) > 1:
            raise VoiceError("it has more than one clip: " + ", ".join(clip.name for clip in clips))
        return _target(self._folder, clips[0]), _target(self._folder, texts[0])


def add_voice(folder: Path, name: str, clip: Path, text: str, replace: bool = False) -> Segment:
    """Add a voice to `folder` and return it under speaker 0. The stored clip is what the model receives: 24 kHz mono,
    without the tags of the original.

    Both files appear or neither. While a voice is replaced it is missing for the time of two renames; it never has the
    words of another clip.

    Raises:
        InvalidArgument: the name, the clip or the text is not fit for a voice, or the name is taken.
        OSError: the folder cannot be written.
    """
    check_voice_name(name)
    try:
        # A lone surrogate becomes bytes that are not UTF-8, which `read_text` refuses.
        segment = Segment(read_text(text.encode("utf-8", "surrogatepass")), 0, read_clip(clip))
    except VoiceError as error:
        raise _refusal(name, error) from None
    if not replace and _present(folder, name, [*CLIP_SUFFIXES, TEXT_SUFFIX]):
        raise InvalidArgument("VOICE", f"the voice {name!r} already exists")
    with TemporaryDirectory(dir=folder, prefix=".") as draft:
        words, sound = Path(draft, name + TEXT_SUFFIX), Path(draft, name + ".flac")
        words.write_text(segment.text + "\n", encoding="utf-8")
        sound.write_bytes(write_clip(segment.audio))
        for old in _present(folder, name, CLIP_SUFFIXES):
            old.unlink()
        words.replace(folder / words.name)
        sound.replace(folder / sound.name)
    return segment


def remove_voice(folder: Path, name: str) -> None:
    """Delete the files of a voice from `folder`, also if one is missing.

    Raises:
        InvalidArgument: not the name of a voice.
        NotFound: there is no such voice.
        OSError: the folder cannot be written.
    """
    check_voice_name(name)
    files = _present(folder, name, [*CLIP_SUFFIXES, TEXT_SUFFIX])
    if not files:
        raise NotFound("VOICE", f"no voice named {name!r} is registered")
    for file in files:
        file.unlink()


def _present(folder: Path, name: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of the voice that exist, broken links among them, in the order of `suffixes`."""
    files = [folder / (name + suffix) for suffix in suffixes]
    return [file for file in files if file.is_file() or file.is_symlink()]


def _target(folder: Path, file: Path) -> Path:
    """Return the file itself. Only links within the folder are followed; a mounted ConfigMap consists of such links."""
    target = Path(os.path.realpath(file))
    if not target.is_relative_to(os.path.realpath(folder)):
        raise VoiceError(f"{file.name} is a link that leaves the folder of voices")
    if file.is_symlink() and not target.is_file():
        raise VoiceError(f"{file.name} is a link to a missing file")
    return target


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Turn the errors of reading a voice into errors for the caller, which contain no path."""
    try:
        yield
    except VoiceError as error:
        raise _refusal(name, error) from None
    except FileNotFoundError:  # it has just been removed
        raise NotFound("VOICE", f"no voice named {name!r} is registered") from None
    except OSError as error:
        raise _refusal(name, VoiceError(f"its files cannot be read: {error.strerror}")) from None


def _refusal(name: str, error: VoiceError) -> InvalidArgument:
    return InvalidArgument("VOICE", f"the voice {name!r} is not usable: {error}")
