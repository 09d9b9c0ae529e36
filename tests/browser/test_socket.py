"""A browser, which can set no header of a WebSocket, shows its key as a subprotocol: `make page`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_triton import running
from tests.support.gateway import running_gateway, write_keys
from tests.support.tone import samples_of, speak_tone

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_key_as_a_subprotocol(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys", {"k-1": {"name": "ann"}})
    with running(f"{tmp_path}/grpc:1") as triton, running_gateway(triton.url, f"--api-keys={keys}") as gateway:
        triton.script = speak_tone()

        def speak(key: str) -> Any:
            command = ["node", "socket.mjs", f"http://127.0.0.1:{gateway.http_port}/", key]
            done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1])

        assert speak("k-1") == {"protocol": "token", "bytes": 2 * samples_of("Hello there.")}
        assert speak("wrong") == {"code": 1006}
