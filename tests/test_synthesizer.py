"""The pipeline without a server."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES
from misotts.prompt.coded_segment import CodedSegment
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


def test_a_turn_is_the_request_whose_context_has_the_turns_before(demo_folder: Path) -> None:
    """The second turn is left after four frames, of which the listener has heard three."""
    with Synthesizer.load(demo_folder) as library:

        def speak(text: str, **fields: object) -> np.ndarray:
            return library.frames(text, seed=7, max_audio_ms=480, **fields)

        first = CodedSegment("Good morning.", 0, speak("Good morning.", session="a"))
        second = speak("How are you?", session="a")
        assert np.array_equal(second, speak("How are you?", context=[first]))
        heard = CodedSegment("How are you?", 0, second[:3])
        third = speak("I am well.", session="a", session_heard_ms=319)
        assert np.array_equal(third, speak("I am well.", context=[first, heard]))
        chunks = library.stream("Left at once.", session="a", seed=7, max_audio_ms=80_000, chunk_frames=1)
        assert next(chunks).session_turns == 3
        chunks.close()  # type: ignore[attr-defined]
        assert next(library.stream("Good bye.", session="a", max_audio_ms=80)).session_turns == 4
        assert not len(library.speak("", session="a", session_end=1))
        assert next(library.stream("Good bye.", session="a", max_audio_ms=80)).session_turns == 0


def test_a_process_may_end_in_the_middle_of_a_stream(demo_folder: Path) -> None:
    """Without `close`: the engine is freed when the loop's thread has ended, not under it."""
    script = """
import sys
from misotts.synthesizer import Synthesizer
stream = Synthesizer.load(sys.argv[1]).stream("Hello.", max_audio_ms=60_000)
next(stream)
sys.exit(0)
"""
    command = [sys.executable, "-c", script, str(demo_folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
