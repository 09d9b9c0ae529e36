"""20,000 seeded mutations of requests: each gets an answer in the API's form, none a 500, none a traceback."""

import asyncio
import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from misotts_gateway.http.app import http_app
from tests.support.http_app import AtOnce, OneChunk, call, service_before

pytestmark = pytest.mark.long
COUNT = 20_000
STATUSES = {200, 400, 403, 404, 405, 409, 413, 415}

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 0.5, 1.0, -0.0, 1e308, 2**31, 2**63, -(2**63), 10**400, "", " ", "a", "7", "1.0"),
    *("mp3", "pcm", "wav", "flac", "mulaw", "opus", "sse", "audio", "ssml", "on", "auto", "alloy", "anna", "../x"),
    *("\x00", "\ud800", "\u200b", "🙂", "。", "é" * 500, "a. " * 400, "<speak>a</speak>", "<speak>", "<!DOCTYPE a>"),
    *([], ["a"], {}, {"id": "alloy"}, {"id": 5}, [[[]]], 24_000, 8_000, 44_100, 11_025, "24000"),
    '<speak>a<break time="9s"/>b</speak>',
]
FIELDS = ["model", "input", "voice", "response_format", "speed", "stream_format", "seed", "temperature", "top_k"]
FIELDS += ["sample_rate", "max_audio_ms", "lead_ms", "session", "input_type", "apply_text_normalization"]
FIELDS += ["zz", "", "é", "🙂", "a\r\nb: c", "\x00"]
TYPES = ["application/json", "application/json; charset=utf-8", "text/plain", "", "application/json;", "\xff"]
TYPES += ["multipart/form-data"]
FORM = "multipart/form-data; boundary=b"
PATHS = ["/v1/audio/speech", "/v1/audio/voices", "/v1/audio/voices/a", "/v1/audio/voices/..", "/v1/models"]
PATHS += ["/v1/models/x", "/", "/page/app.js", "/page/../x", "/v1/audio/speech/", "//", "/\u00e9"]
PATHS += ["/v1/audio/voices/\x00"]


def form(chance: random.Random) -> bytes:
    """Return a form, perhaps with fields missing, doubled or strange."""
    raw = b""
    for name in chance.sample(["name", "audio_sample", "ref_text", "consent", "zz"], chance.randint(2, 5)):
        file = '; filename="../../x.wav"' if (name == "audio_sample") == (chance.random() < 0.9) else ""
        content = chance.choice([b"anna", b"words", b"\xff\xfe", b"", b"x" * 3_000, b"..", b"\r\n--b"])
        raw += f'--b\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
    return raw + b"--b--\r\n"


def damaged(raw: bytes, chance: random.Random) -> bytes:
    """Return bytes with a few changed, removed or doubled."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randint(1, 20)]
            case 2:
                data[at:at] = data[at : at + chance.randint(1, 20)]
            case _:
                data[at:at] = chance.randbytes(chance.randint(1, 5))
    return bytes(data)


def mutation(chance: random.Random) -> tuple[str, str, bytes, bytes]:
    """Return method, path, content type and body."""
    if chance.random() < 0.1:
        raw = form(chance)
        raw = damaged(raw, chance) if chance.random() < 0.5 else raw
        return "POST", "/v1/audio/voices", FORM.encode() if chance.random() < 0.9 else b"multipart/form-data", raw
    fields = {"model": "tts-1", "input": "Hi.", "voice": "alloy", "response_format": "pcm"}
    for name in chance.sample(FIELDS, chance.randint(0, 3)):
        fields[name] = chance.choice(VALUES)
    raw = json.dumps(fields).encode()
    if chance.random() < 0.3:
        raw = damaged(raw, chance)
    if chance.random() < 0.9:
        return "POST", "/v1/audio/speech", b"application/json", raw
    method = chance.choice(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "FOO"])
    return method, chance.choice(PATHS), chance.choice(TYPES).encode("latin-1"), raw


def test_mutations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(20)
    seen: Counter[int] = Counter()

    async def run() -> None:
        service = service_before(OneChunk(), tmp_path, AtOnce(), max_input=2_000)
        app = http_app(service)
        for _ in range(COUNT):
            sent = mutation(chance)
            status, body = await call(app, *sent)
            assert status in STATUSES, (sent, status, body)
            if status >= 400 and sent[0] not in ("HEAD", "OPTIONS"):
                assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}, sent
            seen[status] += 1
        assert service.busy == 0

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert not [record for record in caplog.records if not record.name.startswith("grpc")]
    assert seen[200] > COUNT / 5
    assert seen[400] > COUNT / 5
