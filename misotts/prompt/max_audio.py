"""The longest audio of a request without MAX_AUDIO_MS follows its text.

Models of this family sometimes miss the end of their speech and then babble until they are stopped. What a text can
take at most, spoken slowly, is known before: a stream that is longer is broken, and costs the other callers its slot.
"""

from __future__ import annotations

import re

from misotts_client.contract import LONGEST_DEFAULT_MS

FIXED_MS = 3_000
WORD_MS = 1_200
LEAST_MS = 6_000

_SPOKEN = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # a syllable or a word
    r"|\d"  # often spoken one by one
    r"|[^\W\d_]{1,12}"  # a longer run of letters is several words, or a language without spaces
    r"|[^\w\s.,;:!?'\"()\u2018-\u201f\u2026-]"  # %, &, emoji
)


def longest_audio_ms(text: str) -> int:
    """Return what speech of a text takes at most, in ms: 3 s and 1.2 s a word, from 6 s to 90 s. People speak 2 to 3
    words a second. A digit, a sign and a character of Chinese, Japanese or Korean count as words."""
    words = sum(1 for _ in _SPOKEN.finditer(text))
    return min(max(FIXED_MS + WORD_MS * words, LEAST_MS), LONGEST_DEFAULT_MS)
