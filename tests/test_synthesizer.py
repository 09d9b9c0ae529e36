"""The pipeline without a server."""

from pathlib import Path

import pytest

from misotts.config import FRAME_SAMPLES
from misotts.synthesizer import Synthesizer


def test_a_second_utterance_beside_a_running_one_is_refused(demo_folder: Path) -> None:
    """Both would use the one slot of the codec."""
    with Synthesizer.load(demo_folder) as synthesizer:
        first = synthesizer.stream("Hello.", max_audio_ms=400)
        next(first)
        with pytest.raises(RuntimeError, match="one utterance at a time"):
            synthesizer.speak("Hello.", max_audio_ms=80)
        first.close()  # type: ignore[attr-defined]
        assert len(synthesizer.speak("Hello.", max_audio_ms=80)) == FRAME_SAMPLES
