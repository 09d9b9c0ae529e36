"""The playground in Chromium, behind a proxy that serves it under a path prefix: `make page`."""

import http.client
import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from misotts_client.contract import SAMPLE_RATE
from tests.support.fake_triton import FakeTriton, running
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.tone import samples_of, speak_tone, wave

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HERE = Path(__file__).parent
TEXT = "Hello there, how are you today?"
SECONDS = samples_of(TEXT) / SAMPLE_RATE
PREFIX = "/miso"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTriton]:
    with running(f"{tmp_path_factory.mktemp('run')}/grpc:1") as fake:
        fake.script = speak_tone(pace_s=0.05)
        yield fake


@pytest.fixture(scope="module")
def gateway(triton: FakeTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("voices")
    with running_gateway(triton.url, f"--voices={folder}", "--allow-voice-uploads") as one:
        yield one


@pytest.fixture(scope="module")
def proxy(gateway: RunningGateway) -> Iterator[str]:
    """The address of a proxy that serves the gateway under a prefix and strips it."""

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            assert self.path.startswith(f"{PREFIX}/"), self.path
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with closing(http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=60)) as inner:
                inner.request(self.command, self.path.removeprefix(PREFIX), body, dict(self.headers))
                response = inner.getresponse()
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.end_headers()  # HTTP/1.0: the body ends with the connection
                try:
                    while piece := response.read1(65_536):
                        self.wfile.write(piece)
                except OSError:
                    pass  # the browser has left

        do_GET = do_POST = do_DELETE = forward  # noqa: N815 (the library's names)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{PREFIX}/"
    server.shutdown()


@pytest.fixture(scope="module")
def seen(proxy: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser saw: see page.mjs."""
    folder = tmp_path_factory.mktemp("page")
    clip = folder / "clip.wav"
    soundfile.write(clip, wave(3 * SAMPLE_RATE), SAMPLE_RATE)
    command = ["node", "page.mjs", proxy, str(clip), str(folder)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "folder": folder}


def number(text: str) -> float:
    return float(text.split()[0])


def test_it_works_behind_a_prefix_without_a_complaint(seen: dict[str, Any]) -> None:
    # The one refusal is the request without a letter.
    assert [text for text in seen["complaints"] if "400 (Bad Request)" not in text] == []
    assert seen["server"].startswith("gateway ")
    assert {"", "alloy", "verse"} <= set(seen["voices"])


def test_it_speaks_while_audio_arrives(seen: dict[str, Any]) -> None:
    spoken = seen["spoken"]
    assert number(spoken["length"]) == pytest.approx(SECONDS, abs=0.02)
    assert SECONDS * 0.9 < spoken["seconds"] < SECONDS * 4
    assert 0 < number(spoken["ttfa"]) < 3_000
    assert number(spoken["audible"]) == pytest.approx(number(spoken["ttfa"]) + number(spoken["silence"]), abs=1.1)
    assert number(spoken["continuity"]) > 50
    assert number(spoken["rtf"]) > 0
    assert spoken["used"] == "7"
    assert spoken["wave"] > 0.02
    assert spoken["spectrum"] > 0.003


def test_the_curl_line_gives_the_same_audio(seen: dict[str, Any], tmp_path: Path) -> None:
    command = shlex.split(seen["curl"].replace("\\\n", ""))
    subprocess.run([*command, "-s"], cwd=tmp_path, check=True, timeout=60)
    samples, rate = soundfile.read(tmp_path / "speech.wav", dtype="float32")
    assert (len(samples), rate) == (samples_of(TEXT), SAMPLE_RATE)
    assert np.abs(samples - wave(len(samples))).max() < 1e-4
    assert seen["download"] == {"name": "speech.wav", "size": 44 + 2 * len(samples), "stated": 2 * len(samples)}


def test_every_format_plays(seen: dict[str, Any]) -> None:
    assert {"mp3", "opus", "flac", "wav", "pcm"} <= set(seen["formats"])
    for name, shown in seen["formats"].items():
        assert shown["message"] == "Done.", name
        assert number(shown["length"]) == pytest.approx(SECONDS, abs=0.2), name


def test_stop_ends_the_utterance_at_the_server(seen: dict[str, Any], triton: FakeTriton) -> None:
    assert seen["stopped"]
    assert triton.cancelled.is_set()


def test_an_error_is_shown(seen: dict[str, Any]) -> None:
    assert seen["error"].startswith("input: must have a letter")


def test_voices_from_a_file_and_from_the_microphone(seen: dict[str, Any]) -> None:
    assert seen["fromFile"] == "from-file is ready."
    assert seen["fromMicrophone"] == "from-microphone is ready."
    assert seen["chosen"] == "from-microphone"
    assert "from-file" in seen["left"]
    assert "from-microphone" not in seen["left"]


def test_it_fits_a_telephone_and_names_its_controls(seen: dict[str, Any]) -> None:
    assert seen["telephone"]["overflow"] <= 0
    assert seen["telephone"]["smallest"] >= 40
    assert seen["unnamed"] == []
