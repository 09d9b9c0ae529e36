"""Long texts as utterances: whole sentences as long as they fit, parts of a sentence where it does not."""

import re
import unicodedata
from collections.abc import Iterator

import sentencex

UTTERANCE_WIDTH = 300
"""Largest width of an utterance, about 25 s of speech: far from the contract's longest audio, and near enough to the
conversation's window that a few utterances fit into it."""

WINDOW = 2_000
"""Characters in which sentences are searched at once: sentencex takes time that grows with their square."""
_CLAUSE_ENDS = (re.compile(r"[;:,、，；：—–)\]]+\s*"), re.compile(r"\s+"))
"""Where a sentence that is too long is cut, the best place first."""
_WIDE = 3
"""A character of Chinese, Japanese or Korean takes about as long to speak as this many Latin letters."""


def split_text(text: str, limit: int = UTTERANCE_WIDTH) -> list[str]:
    """Return the utterances of a text. None is wider than `limit`, and each has something to speak; spaces around them
    are dropped, and so are pieces without a letter or a digit.

    Args:
        text: without lone surrogates.
    """
    pieces = [piece for sentence in _sentences(text) for piece in divide(sentence, limit)]
    return [utterance for utterance in _joined(pieces, limit) if is_speakable(utterance)]


def divide(sentence: str, limit: int) -> Iterator[str]:
    """Yield a sentence in parts that are not wider than `limit`: cut behind a clause, else a word, else anywhere.

    Joined, the parts are the sentence.
    """
    start = 0
    while width(sentence[start : start + limit + 1]) > limit:
        window = _fitting(sentence[start : start + limit], limit)
        cuts = (_last_end(pattern, window) for pattern in _CLAUSE_ENDS)
        start_of_next = start + next((cut for cut in cuts if cut > len(window) // 3), len(window))
        yield sentence[start:start_of_next]
        start = start_of_next
    if start < len(sentence):
        yield sentence[start:]


def is_speakable(text: str) -> bool:
    """True if the text has a letter or a digit of any script."""
    return any(character.isalnum() for character in text)


def width(text: str) -> int:
    """Return the number of Latin letters that take about as long to speak as the text."""
    if text.isascii():
        return len(text)
    return sum(_WIDE if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text; end to end they are the text with at most one empty line between paragraphs.

    sentencex takes time that grows with the square of a text that is not ASCII, so it gets pieces of the text. The last
    sentence of a piece may go on in the next piece, which begins with it.
    """
    text = re.sub(r"\n\s*\n", "\n\n", text)
    start = 0
    while start < len(text):
        sentences = list(sentencex.segment("en", text[start : start + WINDOW]))
        if len(sentences) > 1 and start + WINDOW < len(text):
            sentences.pop()
        yield from sentences
        start += sum(map(len, sentences))


def _joined(pieces: list[str], limit: int) -> Iterator[str]:
    """Yield neighbours together as long as they fit."""
    current, current_width = "", 0
    for piece in pieces:
        piece_width = width(piece)
        if current and current_width + piece_width > limit:
            yield " ".join(current.split())
            current, current_width = "", 0
        current, current_width = current + piece, current_width + piece_width
    yield " ".join(current.split())


def _fitting(text: str, limit: int) -> str:
    """Return the longest beginning of a text that is not wider than `limit`."""
    total = 0
    for index, character in enumerate(text):
        total += width(character)
        if total > limit:
            return text[:index]
    return text


def _last_end(pattern: re.Pattern[str], text: str) -> int:
    return max((found.end() for found in pattern.finditer(text)), default=0)
