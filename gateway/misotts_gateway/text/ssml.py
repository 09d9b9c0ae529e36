"""SSML: what of it is spoken.

`<break>` is a silence, `<say-as>` spells characters, digits and telephone numbers, `<sub>` is spoken as its alias,
`<p>` and `<s>` end a sentence. The text of every other element is spoken as if the element were not there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from xml.parsers import expat

MAX_BREAK_MS = 10_000
MAX_SILENCE_MS = 100_000
"""All breaks of a text together."""

_TIME = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(ms|s)")
_STRENGTHS = {"none": 0, "x-weak": 100, "weak": 250, "medium": 500, "strong": 1_000, "x-strong": 2_000}
"""ms of a break that names no time."""
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class SsmlError(ValueError):
    """The text is not SSML that can be spoken; the message says why."""


@dataclass(frozen=True)
class Silence:
    """Digital silence between two utterances."""

    ms: int


def read_ssml(text: str, spell: Callable[[str], str] = lambda text: text) -> list[str | Silence]:
    """Return the spoken texts and the silences of an SSML document, in order. No entity is expanded but XML's own five.

    Args:
        spell: changes text that is spoken as it stands (not what `<say-as>` and `<sub>` have made).

    Raises:
        SsmlError: it is not well-formed XML, its root is not `<speak>`, it has a DOCTYPE, or a break is too long.
    """
    reader = _Reader(spell)
    try:
        reader.parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise SsmlError(f"must be well-formed XML: {reason} in line {error.lineno}, column {error.offset}") from None
    return reader.parts()


def spelled(text: str) -> str:
    """Return a text letter by letter, its digits as words: "B2" becomes "B two"."""
    return " ".join(
        _DIGITS[int(letter)] if letter in "0123456789" else letter for letter in text if not letter.isspace()
    )


def telephone(text: str) -> str:
    """Return a telephone number digit by digit, with a pause between its groups."""
    groups = [spelled(group) for group in re.findall(r"[0-9A-Za-z]+", text)]
    return ("plus " if text.lstrip().startswith("+") else "") + ", ".join(groups)


class _Reader:
    """Collects the parts while expat reads."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        self._spell = spell
        self._parts: list[str | Silence] = []
        self._said: list[str] = []
        self._silence_ms = 0
        self._open: list[tuple[str, dict[str, str]]] = []
        self._special: list[str] | None = None
        """The text of the `<say-as>` or `<sub>` that is being read."""
        self._special_depth = 0
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._doctype

    def parts(self) -> list[str | Silence]:
        self._flush()
        return self._parts

    def _doctype(self, *_: object) -> None:
        raise SsmlError("must have no DOCTYPE")

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        element = element.rpartition(":")[2]
        if not self._open and element != "speak":
            raise SsmlError(f"must have <speak> as its root, it has <{element[:40]}>")
        self._open.append((element, attributes))
        if element in ("say-as", "sub") and self._special is None:
            self._special, self._special_depth = [], len(self._open)
        elif element == "break":
            self._break(attributes)
        elif element in ("p", "s"):
            self._end_sentence()

    def _end(self, _: str) -> None:
        element, attributes = self._open[-1]
        if self._special is not None and len(self._open) == self._special_depth:
            text, self._special = "".join(self._special), None
            self._said.append(self._replaced(element, attributes, text))
        self._open.pop()
        if element in ("p", "s"):
            self._end_sentence()

    def _characters(self, text: str) -> None:
        if self._special is None:
            self._said.append(self._spell(text))
        else:
            self._special.append(text)

    def _replaced(self, element: str, attributes: dict[str, str], text: str) -> str:
        if element == "sub":
            return attributes.get("alias", text)
        match attributes.get("interpret-as", ""):
            case "characters" | "spell-out" | "digits" | "verbatim":
                return spelled(text)
            case "telephone":
                return telephone(text)
            case _:
                return self._spell(text)

    def _break(self, attributes: dict[str, str]) -> None:
        time = attributes.get("time", "").strip()
        found = _TIME.fullmatch(time)
        if time and not found:
            raise SsmlError(f'must have times of breaks like "500ms" or "1.5s", got {time[:40]!r}')
        strength = _STRENGTHS.get(attributes.get("strength", "medium"), _STRENGTHS["medium"])
        ms = round(float(found[1]) * (1 if found[2] == "ms" else 1_000)) if found else strength
        if ms > MAX_BREAK_MS:
            raise SsmlError(f"must have breaks of at most {MAX_BREAK_MS} ms, got {ms} ms")
        self._silence_ms += ms
        if self._silence_ms > MAX_SILENCE_MS:
            raise SsmlError(f"must have at most {MAX_SILENCE_MS} ms of breaks in all, got more")
        if ms:
            self._flush()
            self._parts.append(Silence(ms))

    def _end_sentence(self) -> None:
        said = "".join(self._said).rstrip()
        if said and said[-1].isalnum():
            said += "."
        self._said = [said, "\n\n"] if said else []

    def _flush(self) -> None:
        if said := "".join(self._said):
            self._parts.append(said)
        self._said = []
