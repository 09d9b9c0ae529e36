"""Registered voices: a folder of `<name>.wav|flac|mp3` with the words spoken in `<name>.txt`.

A voice is there as long as its clip is. Adding puts the text in place first and the clip last, removing takes the clip
first; so whoever finds the same clip before and after opening the text has the two that belong together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from misotts.prompt.voice_files import VoiceError, read_clip, read_text, write_clip
from misotts_client.errors import InvalidArgument, NotFound
from misotts_client.request import Segment

NAME = re.compile(r"[a-z0-9_-]{1,64}")
CLIP_SUFFIXES = (".wav", ".flac", ".mp3")
TEXT_SUFFIX = ".txt"


class Voices:
    """The voices of a folder, read when they are asked for: adding one needs no restart."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Every name that has a clip or a text, in order; also those that `segment` refuses."""
        files = self._folder.iterdir() if self._folder else ()
        known = (*CLIP_SUFFIXES, TEXT_SUFFIX)
        return sorted({file.stem for file in files if file.suffix in known and not file.name.startswith(".")})

    def version(self, name: str) -> tuple[int, ...]:
        """Numbers that change whenever the voice's clip or text does.

        Raises:
            InvalidArgument: not a voice's name, or its files are not usable.
            NotFound: no such voice.
        """
        with _errors_of(name):
            stats = [file.stat() for file in self._files(name)]
        return tuple(number for stat in stats for number in (stat.st_ino, stat.st_ctime_ns, stat.st_size))

    def segment(self, name: str, speaker: int) -> Segment:
        """The voice as the oldest segment of a prompt, spoken by `speaker`.

        Raises:
            InvalidArgument: not a voice's name, or its files are not usable.
            NotFound: no such voice.
        """
        with _errors_of(name):
            clip, text = self._files(name)
            with clip.open("rb") as sound, text.open("rb") as words:
                if os.path.samestat(os.fstat(sound.fileno()), clip.stat()):
                    return Segment(read_text(words.read()), speaker, read_clip(sound))
        return self.segment(name, speaker)  # it was replaced just now

    def _files(self, name: str) -> tuple[Path, Path]:
        """The voice's clip and text."""
        check_name(name)
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
    """Put a voice into `folder`, its clip as what the model will hear: 24 kHz mono, without the tags of the original.

    Both files appear or neither. While a voice is being replaced it is missing for the time of two renames, rather than
    there with the words of another clip. Returns the voice under speaker 0.

    Raises:
        InvalidArgument: the name, the clip or the text is not fit for a voice, or the name is taken.
        OSError: the folder cannot be written.
    """
    check_name(name)
    try:
        # What cannot be UTF-8 is passed on as bytes that are not, and refused as such.
        segment = Segment(read_text(text.encode("utf-8", "surrogatepass")), 0, read_clip(clip))
    except VoiceError as error:
        raise _refusal(name, error) from None
    if not replace and _present(folder, name, [*CLIP_SUFFIXES, TEXT_SUFFIX]):
        raise InvalidArgument("VOICE", f"the voice {name!r} is there already")
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
    """Take a voice, or what there is of it, out of `folder`.

    Raises:
        InvalidArgument: not a voice's name.
        NotFound: no such voice.
        OSError: the folder cannot be written.
    """
    check_name(name)
    files = _present(folder, name, [*CLIP_SUFFIXES, TEXT_SUFFIX])
    if not files:
        raise NotFound("VOICE", f"no voice named {name!r} is registered")
    for file in files:
        file.unlink()


def check_name(name: str) -> None:
    """Refuse what is no voice's name; what passes is a plain file name, whatever is appended to it.

    Raises:
        InvalidArgument: not a voice's name.
    """
    if not NAME.fullmatch(name):
        raise InvalidArgument("VOICE", f"must match {NAME.pattern}, got {name[:80]!r}")


def _present(folder: Path, name: str, suffixes: Sequence[str]) -> list[Path]:
    """The voice's files that are there, links that lead nowhere among them, in the order of `suffixes`."""
    files = [folder / (name + suffix) for suffix in suffixes]
    return [file for file in files if file.is_file() or file.is_symlink()]


def _target(folder: Path, file: Path) -> Path:
    """The file itself. Links are followed within the folder only: a mounted ConfigMap consists of such links."""
    target = Path(os.path.realpath(file))
    if not target.is_relative_to(os.path.realpath(folder)):
        raise VoiceError(f"{file.name} is a link that leaves the folder of voices")
    if file.is_symlink() and not target.is_file():
        raise VoiceError(f"{file.name} is a link to no file")
    return target


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Turn what reading a voice raises into errors for the caller, who shall see no path."""
    try:
        yield
    except VoiceError as error:
        raise _refusal(name, error) from None
    except FileNotFoundError:  # removed just now
        raise NotFound("VOICE", f"no voice named {name!r} is registered") from None
    except OSError as error:
        raise _refusal(name, VoiceError(f"its files cannot be read: {error.strerror}")) from None


def _refusal(name: str, error: VoiceError) -> InvalidArgument:
    return InvalidArgument("VOICE", f"the voice {name!r} is not usable: {error}")
