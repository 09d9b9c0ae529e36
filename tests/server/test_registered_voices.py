"""The folder of voices changes while a server runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES
from misotts.prompt.voices import Voices, add_voice, remove_voice
from misotts_client import Client, InvalidArgument, NotFound
from tests.support.clips import tone, write


@pytest.fixture
def folder(voices: Path) -> Iterator[Path]:
    """The server's folder of voices; those that begin with `passing-` are removed after the test."""
    yield voices
    for name in [name for name in Voices(voices).names() if name.startswith("passing-")]:
        remove_voice(voices, name)


def speak(client: Client, voice: str | None) -> np.ndarray:
    return client.speak("Hello.", voice=voice, seed=4, max_audio_ms=400).audio


def test_voices_are_added_changed_and_removed_without_a_restart(client: Client, folder: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "first.wav", tone(1.5))
    second = write(tmp_path / "second.mp3", tone(2, 44_100, 0.1), 44_100)
    with pytest.raises(NotFound, match="passing-by"):
        speak(client, "passing-by")

    add_voice(folder, "passing-by", first, "The first clip.")
    as_first = speak(client, "passing-by")
    assert not np.allclose(as_first, speak(client, None), atol=1e-3)

    add_voice(folder, "passing-by", second, "The second clip.", replace=True)
    add_voice(folder, "passing-too", second, "The second clip.")
    as_second = speak(client, "passing-by")
    assert not np.allclose(as_second, as_first, atol=1e-3)
    np.testing.assert_allclose(as_second, speak(client, "passing-too"), rtol=0, atol=1e-5)

    (folder / "passing-by.txt").write_text("Other words.")
    assert not np.allclose(speak(client, "passing-by"), as_second, atol=1e-3)

    remove_voice(folder, "passing-by")
    with pytest.raises(NotFound, match="passing-by"):
        speak(client, "passing-by")


def test_an_unusable_voice_is_refused_and_the_server_goes_on(
    client: Client, folder: Path, pinned_text: Callable[..., None]
) -> None:
    clip = folder / "passing-by.wav"
    (folder / "passing-by.txt").write_text("Some words.")
    clip.write_bytes(b"no audio")
    with pytest.raises(InvalidArgument) as caught:
        speak(client, "passing-by")
    assert caught.value.field == "VOICE"
    pinned_text(caught.value.message)

    write(clip, tone(0.5))
    with pytest.raises(InvalidArgument, match=r"1 to 30 s, .* 0\.5 s"):
        speak(client, "passing-by")

    write(clip, tone())
    assert len(speak(client, "passing-by")) == 5 * FRAME_SAMPLES
    assert len(speak(client, "ann")) == 5 * FRAME_SAMPLES
