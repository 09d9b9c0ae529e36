"""Text that comes piece by piece becomes utterances: whole sentences, as soon as the next one has begun."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import sentencex

from misotts_gateway.text.sentences import UTTERANCE_WIDTH, WINDOW, divide, is_speakable, width


class SentenceBuffer:
    """Keeps the text that is not yet part of an utterance.

    What `add` and `flush` return, joined, and what the buffer still holds are what was added, character by character,
    but for a run of more characters without a letter or a digit than an utterance may have, which is dropped.
    """

    def __init__(self, limit: int = UTTERANCE_WIDTH) -> None:
        """`limit`: width of the longest utterance; a sentence that is wider is divided."""
        self._limit = limit
        self._text = ""

    @property
    def is_speakable(self) -> bool:
        """True if a flush would return something."""
        return is_speakable(self._text)

    def add(self, text: str) -> list[str]:
        """Return the utterances that are complete. The last sentence stays until the first character of another one
        has come, for it may go on: `3.` becomes `3.50`."""
        self._text += text
        return [piece for sentence in self._complete() for piece in _pieces(sentence, self._limit)]

    def flush(self) -> list[str]:
        """Return all that can be spoken. Text without a letter or a digit stays, and goes before what comes next."""
        if not self.is_speakable:
            return []
        rest, self._text = self._text, ""
        return _pieces(rest, self._limit)

    def _complete(self) -> Iterator[str]:
        """Take the complete sentences from the buffer."""
        found = True
        while found:
            found = False
            start, letter = 0, False
            ends = list(accumulate(map(len, sentencex.segment("en", self._text[:WINDOW]))))
            for begin, end, next_end in zip([0, *ends], ends, ends[1:], strict=False):
                letter = letter or _has_letter(self._text[begin:end])
                # Spaces belong to the sentence before them, and "1." to the one behind it.
                if letter and not self._text[end:next_end].isspace():
                    yield self._text[start:end]
                    start, letter, found = end, False, True
            self._text = self._text[start:]
            if not found and width(self._text[: self._limit + 1]) > self._limit:
                piece = next(divide(self._text, self._limit))
                self._text, found = self._text[len(piece) :], True
                if is_speakable(piece):
                    yield piece


def whole_text(text: str, limit: int = UTTERANCE_WIDTH) -> list[str]:
    """Return the utterances of a complete text: neighbouring sentences together, as long as they fit. Joined, they are
    the text, but for what cannot be spoken at its end."""
    buffer = SentenceBuffer(limit)
    utterances: list[str] = []
    for sentence in buffer.add(text) + buffer.flush():
        if utterances and width(utterances[-1]) + width(sentence) <= limit:
            utterances[-1] += sentence
        else:
            utterances.append(sentence)
    return utterances


def _pieces(sentence: str, limit: int) -> list[str]:
    """Return a sentence in parts of about `limit`, each of which has something to speak."""
    pieces: list[str] = []
    for piece in divide(sentence, limit):
        if pieces and not (is_speakable(piece) and is_speakable(pieces[-1])):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def _has_letter(text: str) -> bool:
    return any(character.isalpha() for character in text)
