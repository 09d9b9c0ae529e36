"""A server with a KV pool too small for all utterances at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.serve.local import running_server
from misotts_client import Client, SpeechRequest

CALLERS = 8
FRAMES = 80
NUMBERS = " ".join(str(number) for number in range(100, 166))
PUBLISHED_S = 1.2


def smallest_pool(config: ModelConfig) -> int:
    """Bytes of a KV pool in float32 that holds one utterance of full length, and the scratch block."""
    c = config.backbone
    blocks = 1 + config.max_seq_len // BLOCK_SIZE
    return blocks * c.num_layers * 2 * c.num_kv_heads * BLOCK_SIZE * c.head_dim * 4


def test_preempted_utterances_end_as_they_would_alone(demo_folder: Path, key_options: list[str]) -> None:
    """The prompts of eight callers, 8 blocks each, nearly fill the pool of 64, and each stream grows by three. The
    frames are the same in any batch, to the bit."""
    requests = [
        SpeechRequest(f"{caller} {NUMBERS}", seed=caller, max_audio_ms=80 * FRAMES) for caller in range(CALLERS)
    ]
    options = [f"--kv-memory={smallest_pool(ModelConfig.load(demo_folder))}", f"--max-streams={CALLERS}", *key_options]
    with running_server(demo_folder, *options) as server, Client(server.url) as client:
        with ThreadPoolExecutor(CALLERS) as callers:
            together = list(callers.map(client.speak, requests))
        time.sleep(PUBLISHED_S)
        assert server.metrics()["misotts_generate_preempted_total"] > 0
        assert server.metrics()["misotts_generate_blocks_used"] == 0
        alone = client.speak(requests[-1])
    assert [(len(speech.audio), speech.finish) for speech in together] == [(FRAMES * FRAME_SAMPLES, "length")] * CALLERS
    np.testing.assert_allclose(together[-1].audio, alone.audio, rtol=0, atol=1e-5)
