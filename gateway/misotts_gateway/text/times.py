"""Estimated times of the words of an utterance: the model gives none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from misotts_gateway.text.sentences import width

FIRST_RATE_S = 0.065
"""Seconds of speech for a Latin letter until a conversation has shown its own figure: 15 letters a second."""
_RATES_S = (0.03, 0.15)
_WEIGHT = 0.3
"""Weight of the newest utterance in a conversation's rate."""

_BY_CHARACTER = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts without spaces between words: Hiragana, Katakana, Han."""
_WORD = re.compile(rf"[{_BY_CHARACTER}][^\w\s]*|[^\s{_BY_CHARACTER}]+")


@dataclass(frozen=True)
class Timed:
    """A piece of a text, and when it is spoken: seconds from the beginning of the utterance's audio."""

    text: str
    start: float
    end: float

    def moved(self, seconds: float) -> Timed:
        """Return the same, later."""
        return Timed(self.text, self.start + seconds, self.end + seconds)


Spans = Callable[[str], list[tuple[int, int]]]
"""Finds the pieces of a text whose times are wanted: `words`, `characters`."""


class SpeakingRate:
    """The time that a conversation's voice takes for a text.

    Attributes:
        seconds: for one Latin letter.
    """

    def __init__(self) -> None:
        self.seconds = FIRST_RATE_S

    def learn(self, text: str, audio_s: float) -> None:
        """Take note of the length of a complete utterance."""
        measured = min(max(audio_s / max(width(text), 1), _RATES_S[0]), _RATES_S[1])
        self.seconds += _WEIGHT * (measured - self.seconds)


class EstimatedTimes:
    """Times of the pieces of one utterance, in proportion to the letters before them.

    A piece is given out with the audio in which it begins, so it never comes later than that audio, and no time lies
    behind the audio that has been sent.
    """

    def __init__(self, text: str, pieces: Sequence[tuple[int, int]], rate_s: float) -> None:
        """`pieces`: beginning and end of each in the text, in order; `rate_s`: seconds of a Latin letter."""
        before = [0, *accumulate(map(width, text))]
        self._left = [Timed(text[a:b], before[a] * rate_s, before[b] * rate_s) for a, b in pieces]
        self._left.reverse()
        self._clock = 0.0

    def until(self, audio_s: float, last: bool = False) -> list[Timed]:
        """Return the pieces that begin in the audio up to `audio_s`, and were not returned before; with `last`, which
        says that the audio ends there, all that are left."""
        given = []
        if last:
            given = _squeezed(self._left[::-1], self._clock, audio_s)
            self._left = []
        while self._left and self._left[-1].start < audio_s:
            piece = self._left.pop()
            given.append(Timed(piece.text, piece.start, min(piece.end, audio_s)))
        self._clock = audio_s
        return given


def words(text: str) -> list[tuple[int, int]]:
    """Return beginning and end of each word: what stands between spaces; Chinese and Japanese by character. Joined,
    the words are the text without its spaces."""
    return [found.span() for found in _WORD.finditer(text)]


def characters(text: str) -> list[tuple[int, int]]:
    """Return beginning and end of each character, spaces too."""
    return [(index, index + 1) for index in range(len(text))]


def _squeezed(pieces: list[Timed], begin: float, end: float) -> list[Timed]:
    """Return pieces with their times moved into what is left of the audio, if they are behind it."""
    if not pieces:
        return []
    first, last = pieces[0].start, pieces[-1].end
    begin = min(max(first, begin), end)
    scale = min(1.0, (end - begin) / (last - first)) if last > first else 1.0
    return [
        Timed(piece.text, begin + (piece.start - first) * scale, min(begin + (piece.end - first) * scale, end))
        for piece in pieces
    ]
