"""The parts of a turn."""

from dataclasses import dataclass, field

from misotts_gateway.text.lexicon import Lexicon
from misotts_gateway.text.normalize import Normalizer
from misotts_gateway.text.sentences import split_text
from misotts_gateway.text.ssml import Silence, read_ssml


@dataclass(frozen=True)
class TextSettings:
    """What the operator has set for texts.

    Attributes:
        lexicon: spellings of words.
        normalizer: writes numbers as words; None if it is not installed.
        normalize: True if a request that does not say gets its text normalised.
        max_input: code points of the longest text.
    """

    lexicon: Lexicon = field(default_factory=lambda: Lexicon({}, {}))
    normalizer: Normalizer | None = None
    normalize: bool = False
    max_input: int = 100_000

    def said(self, text: str, voice: str | None) -> str:
        """Return an utterance as the model gets it: spelled by the lexicon, and with its numbers as words where the
        operator has set that."""
        spelled = self.lexicon.apply(text, voice)
        return self.normalizer(spelled) if self.normalize and self.normalizer else spelled


def plan(
    text: str, settings: TextSettings, *, voice: str | None, ssml: bool = False, normalize: bool = False
) -> list[str | Silence]:
    """Return the utterances and silences of a text, in order; silences beside each other are kept apart.

    It takes some ms for a long text, so it belongs into a thread.

    Raises:
        SsmlError: the text is not SSML that can be spoken.
    """

    def spell(words: str) -> str:
        return settings.lexicon.apply(words, voice)

    parts: list[str | Silence] = []
    for part in read_ssml(text, spell) if ssml else [spell(text)]:
        if isinstance(part, Silence):
            parts.append(part)
            continue
        for utterance in split_text(part):
            if normalize and settings.normalizer:
                # Words are longer than digits, so what has become too long is split again.
                parts += split_text(settings.normalizer(utterance))
            else:
                parts.append(utterance)
    return parts
