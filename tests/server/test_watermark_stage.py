"""Speech that passes the watermark stage of a running server carries the server's key.

The random model makes noise, so the test sends speech to the stage itself, as `decode` does, with the launcher's
secret.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from misotts.config import FRAME_SAMPLES
from misotts.serve.local import RunningServer
from misotts.serve.settings import RUN_ENV, StageSettings
from misotts.watermark.detector import Detector, judge
from misotts.watermark.watermarker import delay_frames
from misotts_client import Client
from tests.support.raw import infer, text

CHUNKS = (1, 1, 2, 4, 8, 8, 8)
STREAM, SLOT = 1_000_000, 8
"""A slot of `onnx_server` that `generate` does not use."""


def secret_of(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read the secret in the settings of the stages. Their folder is in tritonserver's environment."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        environment = dict(
            entry.partition("=")[::2] for entry in Path(f"/proc/{child}/environ").read_text().split("\0")
        )
        if RUN_ENV in environment:
            monkeypatch.setenv(RUN_ENV, environment[RUN_ENV])
            return StageSettings.load().secret
    raise AssertionError(f"none of {pid}'s children is a tritonserver")


def test_the_first_chunk_of_an_utterance_is_one_frame(client: Client, demo_folder: Path) -> None:
    """The watermark adds no frame to the time to first audio."""
    assert delay_frames(demo_folder) == 0
    chunks = list(client.stream("Hello from Miso.", max_audio_ms=800, seed=3))
    assert len(chunks[0].audio) == FRAME_SAMPLES
    assert sum(len(chunk.audio) for chunk in chunks) == 10 * FRAME_SAMPLES


def test_the_detector_finds_the_key_in_speech_from_the_stage(
    onnx_server: RunningServer, key: bytes, speech: np.ndarray, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = text(secret_of(onnx_server, monkeypatch).encode())
    pieces = np.split(speech, np.cumsum(CHUNKS) * FRAME_SAMPLES)
    heard = []
    for index, piece in enumerate(pieces):
        response = infer(
            onnx_server.url,
            "watermark",
            SECRET=secret,
            HEADER=np.array([STREAM, SLOT, index, 7], np.int64),
            AUDIO=piece,
            FINISH=text(b"eos" if index == len(pieces) - 1 else b""),
        )
        assert not response.error_message
        names = [output.name for output in response.infer_response.outputs]
        raw = response.infer_response.raw_output_contents[names.index("AUDIO")]
        heard.append(np.frombuffer(raw, np.float32))
        if index == 0:
            assert len(heard[0]) == FRAME_SAMPLES, "the first frame does not wait"
    audio = np.concatenate(heard)
    assert len(audio) == len(speech)
    assert 20 * np.log10(speech.std() / (audio - speech).std()) > 30
    readings = Detector(demo_folder).read(audio, 24_000)
    assert judge(readings, key).key_matches
    assert judge(readings, bytes([9, 8, 7, 6, 250])).other_key
