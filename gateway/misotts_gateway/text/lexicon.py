"""A lexicon: words, and how to spell them so that the model says them right."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from misotts_client.contract import VOICE_NAME

MAX_BYTES = 2**20


class Lexicon:
    """Spellings for all voices, and more of them for single voices.

    An entry without a capital letter stands for the word in any case; another one for exactly this word.

    Args:
        words: spelling by word.
        voices: the same by voice; they win over `words`.
    """

    def __init__(self, words: Mapping[str, str], voices: Mapping[str, Mapping[str, str]]) -> None:
        self._words = dict(words)
        self._voices = {voice: {**words, **own} for voice, own in voices.items()}
        self._patterns = {None: _pattern(self._words)} | {name: _pattern(own) for name, own in self._voices.items()}

    def apply(self, text: str, voice: str | None) -> str:
        """Return a text with its words spelled as `voice` needs them. Only whole words are replaced."""
        known = voice if voice in self._voices else None
        pattern = self._patterns[known]
        words = self._words if known is None else self._voices[known]
        return pattern.sub(lambda found: _spelling(words, found[0]), text) if pattern else text


def read_lexicon(path: Path) -> Lexicon:
    """Return the lexicon of a JSON file: `{"words": {"Miso": "Mee so"}, "voices": {"anna": {"route": "root"}}}`.

    Raises:
        ValueError: the file cannot be read, is larger than 1 MiB, or has another form; the message names the file.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"must have at most {MAX_BYTES} bytes")
        return _lexicon(json.loads(raw))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"the lexicon {path}: {error}") from None


def _lexicon(content: Any) -> Lexicon:
    if not isinstance(content, dict) or content.keys() - {"words", "voices"}:
        raise ValueError('must be an object of "words" and "voices"')
    voices = content.get("voices", {})
    if not isinstance(voices, dict) or not all(VOICE_NAME.fullmatch(name) for name in voices):
        raise ValueError(f'"voices" must be an object whose names match {VOICE_NAME.pattern}')
    for words in (content.get("words", {}), *voices.values()):
        if not isinstance(words, dict) or not all(
            word.strip() and isinstance(said, str) for word, said in words.items()
        ):
            raise ValueError("a list of words must be an object of words and their spellings, both text")
    return Lexicon(content.get("words", {}), voices)


def _pattern(words: Mapping[str, str]) -> re.Pattern[str] | None:
    if not words:
        return None
    longest_first = sorted(words, key=len, reverse=True)
    alternatives = (re.escape(word) if word != word.lower() else f"(?i:{re.escape(word)})" for word in longest_first)
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)")


def _spelling(words: Mapping[str, str], found: str) -> str:
    return words[found] if found in words else words.get(found.lower(), found)
