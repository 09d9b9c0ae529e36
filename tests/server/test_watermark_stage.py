"""Speech that passes the watermark stage of a running server carries the server's key.

The random model makes noise, so the test sends speech to the stage itself, as `decode` does, by tritonserver's socket
in the run folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from misotts.config import FRAME_SAMPLES
from misotts.serve.local import RunningServer
from misotts.serve.stage.header import Header
from misotts.watermark.detector import Detector, Finding, judge
from misotts.watermark.watermarker import hold_back
from misotts_client import Client
from tests.support.processes import run_folder
from tests.support.raw import infer

CHUNKS = (1, 1, 2, 4, 8, 8, 8)
STREAM, SLOT, ADMISSION = 1_000_000, 8, 1_000_000
"""A slot of `eager_server` that `generate` does not use."""


def test_the_first_chunk_of_an_utterance_is_one_frame(client: Client, demo_folder: Path) -> None:
    """The watermark adds no frame to the time to first audio."""
    assert hold_back(demo_folder).frames == 0
    chunks = list(client.stream("Hello from Miso.", max_audio_ms=800, seed=3))
    assert len(chunks[0].audio) == FRAME_SAMPLES
    assert sum(len(chunk.audio) for chunk in chunks) == 10 * FRAME_SAMPLES


def test_the_detector_finds_the_key_in_speech_from_the_stage(
    eager_server: RunningServer, key: bytes, speech: np.ndarray, demo_folder: Path
) -> None:
    pieces = np.split(speech, np.cumsum(CHUNKS) * FRAME_SAMPLES)
    heard = []
    for index, piece in enumerate(pieces):
        response = infer(
            f"unix:{run_folder(eager_server)}/grpc:1",
            "watermark",
            HEADER=Header(STREAM, SLOT, index, 7, ADMISSION, 3, "eos" if index == len(pieces) - 1 else "").pack(),
            AUDIO=piece,
        )
        assert not response.error_message
        names = [output.name for output in response.infer_response.outputs]
        raw = response.infer_response.raw_output_contents[names.index("AUDIO")]
        heard.append(np.frombuffer(raw, np.float32))
        told = response.infer_response.raw_output_contents[names.index("SESSION_TURNS")]
        assert np.frombuffer(told, np.int32).tolist() == [3]
        if index == 0:
            assert len(heard[0]) == FRAME_SAMPLES, "the first frame does not wait"
    audio = np.concatenate(heard)
    assert len(audio) == len(speech)
    assert 20 * np.log10(speech.std() / (audio - speech).std()) > 30
    readings = Detector(demo_folder).read(audio, 24_000)
    assert judge(readings, key).key_matches
    assert judge(readings, bytes([9, 8, 7, 6, 250])).finding is Finding.ANOTHER_KEY
