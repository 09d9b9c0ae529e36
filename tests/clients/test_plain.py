"""curl, Triton's client, and the requests that Open WebUI sends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from misotts.serve.local import RunningServer
from tests.support.clients import EXAMPLES, KEY, assert_alike
from tests.support.decoded import decode, resampled
from tests.support.http import request

TEXT = "Good morning. How are you today?"


def test_curl(server: RunningServer, spoken: Callable[..., np.ndarray], tmp_path: Path) -> None:
    commands = (EXAMPLES / "curl.sh").read_text().replace("localhost:8080", f"127.0.0.1:{server.ports.http}")
    variables = {**os.environ, "MISOTTS_API_KEY": KEY}
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, env=variables, check=True, timeout=120)
    wanted = spoken(TEXT).astype(np.float32) / 32_767
    decoded, rate = decode("mp3", 24_000, (tmp_path / "morning.mp3").read_bytes())
    assert_alike(decoded, resampled(wanted, rate))
    decoded, _ = decode("mulaw", 8_000, (tmp_path / "morning.ulaw").read_bytes())
    assert_alike(decoded, resampled(wanted, 8_000))
    assert '"alloy"' in (tmp_path / "voices.json").read_text()


def test_tritons_client(server: RunningServer, tmp_path: Path) -> None:
    source = (EXAMPLES / "triton_client.py").read_text()
    source = source.replace("localhost:8001", server.url).replace("any-key", KEY)
    printed = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True, timeout=120)
    *chunks, last = printed.stdout.splitlines()
    assert sum(int(line.split()[0]) for line in [*chunks, last]) > 24_000
    assert last.endswith(("eos", "length"))


def test_open_webuis_requests(server: RunningServer) -> None:
    """As backend/open_webui/routers/audio.py sends them: aiohttp's JSON, and a bearer key."""
    settings = dict(re.findall(r"^(\w+)=(.*)$", (EXAMPLES / "open_webui.env").read_text(), re.MULTILINE))
    assert settings["AUDIO_TTS_OPENAI_API_BASE_URL"] == "http://localhost:8080/v1"
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "x-openwebui-user-name": "a"}
    body = {"input": TEXT, "voice": settings["AUDIO_TTS_VOICE"], "model": settings["AUDIO_TTS_MODEL"]}
    given = request(server.ports.http, "POST", "/v1/audio/speech", body, headers, timeout=60)
    assert (given.status, given.headers["content-type"], given.body[:2]) == (200, "audio/mpeg", b"\xff\xf3")
    voices = request(server.ports.http, "GET", "/v1/audio/voices", headers=headers).json["voices"]
    assert "alloy" in {voice["id"]: voice["name"] for voice in voices}
    assert request(server.ports.http, "GET", "/v1/audio/models", headers=headers).status == 404
    refused = request(server.ports.http, "POST", "/v1/audio/speech", {**body, "voice": "unknown"}, headers)
    assert refused.error["message"]  # Open WebUI shows it
