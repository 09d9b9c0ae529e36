"""The longest audio of a text: no speech that people would speak is cut."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from misotts.config import ModelConfig
from misotts.prompt.builder import Prompter
from misotts.prompt.max_audio import longest_audio_ms
from misotts.prompt.voices import Voices
from misotts_client.request import SpeechRequest
from tests.support.models import config_with

SPOKEN_S = {
    "Yes.": 1,
    "The quick brown fox jumps over the lazy dog.": 4,
    "Call 0049 30 901820, extension 4711, before 17:45.": 12,
    "It costs $1,234,567.89 & 15 % of 3.5e8 + 2^10 = 7": 22,
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenfabrik": 6,
    "今天天气很好，我们去公园散步吧，然后一起吃晚饭。": 7,
    "สวัสดีครับ วันนี้อากาศดีมาก": 5,
    "HTTP 404, NVIDIA GPU, U.S.A.": 9,
    "🙂" * 20: 15,
    " ".join(["word"] * 60): 28,
}


@pytest.mark.parametrize("text", SPOKEN_S)
def test_slow_speech_fits(text: str) -> None:
    """Half as long again as a slow reader needs is allowed; the times are estimates."""
    assert longest_audio_ms(text) >= min(1.5 * SPOKEN_S[text] * 1000, 90_000)


def test_the_length_follows_the_words_within_its_limits() -> None:
    assert longest_audio_ms("Hello.") == 6_000
    assert longest_audio_ms("one two three four five") == 9_000
    assert longest_audio_ms("word " * 500) == 90_000


def canned_codes(clip: object, pause: object) -> npt.NDArray[np.int32]:
    return np.zeros((1, 32), np.int32)


def test_requests_and_the_operator_come_before_the_text(demo_folder: Path, config: ModelConfig) -> None:
    def build(request: SpeechRequest, max_audio_ms: int | None) -> tuple[int, bool]:
        small = config_with(config, max_seq_len=400)
        order = Prompter(demo_folder, small, canned_codes, Voices(None), max_audio_ms).build(request)
        return order.max_frames, order.guarded

    text = "one two three four five"
    assert build(SpeechRequest(text), None) == (112, True)
    assert build(SpeechRequest(text), 20_000) == (250, True)
    assert build(SpeechRequest(text, max_audio_ms=24_000), 8_000) == (300, False)
