"""Numbers, dates, money, units and addresses as words, by WeTextProcessing's grammars (the extra `normalize`)."""

import importlib.util
from collections.abc import Callable

AVAILABLE = importlib.util.find_spec("wetext") is not None
LANGUAGES = ("en",)

Normalizer = Callable[[str], str]


def load_normalizer(language: str) -> Normalizer:
    """Return a function that writes the numbers of an utterance as words; it takes about 1 ms.

    A text that the grammars cannot read is returned as it is.

    Raises:
        ValueError: the language is not one of `LANGUAGES`, or the library is not installed.
    """
    if language not in LANGUAGES:
        raise ValueError(f"must be one of {', '.join(LANGUAGES)}, got {language!r}")
    if not AVAILABLE:
        raise ValueError("needs misotts-gateway[normalize], which is not installed")
    import wetext

    grammars = wetext.Normalizer(lang=language, operator="tn")

    def normalize(text: str) -> str:
        if not any(character.isdigit() or character in "$€£%@.°" for character in text):
            return text
        try:
            normalized: str = grammars.normalize(" ".join(text.split()))
        except (AssertionError, LookupError, TypeError, ValueError):  # what wetext raises for text that it cannot parse
            return text
        return normalized

    return normalize
