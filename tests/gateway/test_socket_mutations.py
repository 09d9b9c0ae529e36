"""20,000 seeded mutations of messages and of their order, on every WebSocket: no traceback, no answer out of form."""

import asyncio
import json
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from misotts_gateway.http.app import http_app
from tests.support.http_app import AtOnce, OneChunk, converse, service_before

pytestmark = pytest.mark.long
COUNT, MESSAGES = 20_000, 20

FORMAT = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}
IDS: list[Any] = ["a", "b", "c", "", " ", "é", "x" * 600, None, 5, {}]
TEXTS: list[Any] = [
    "Hi. ",
    "Hello there. How",
    " are you?",
    "",
    " ",
    "...",
    "🙂",
    "\u200b",
    "\ud800",
    "\x00",
    "1. ",
    "a" * 700,
    None,
    5,
]
FLAGS: list[Any] = [True, False, True, False, None, "true", 1]
VALUES: list[Any] = [
    *TEXTS,
    *IDS,
    *FLAGS,
    [],
    [[]],
    -1,
    0,
    1e308,
    10**400,
    "alloy",
    "../x",
    8_000,
    "raw",
    {"id": "alloy"},
]

SOCKETS: dict[str, dict[str, list[Any]]] = {
    "/tts/websocket": {
        "transcript": TEXTS,
        "context_id": IDS,
        "continue": FLAGS,
        "flush": FLAGS,
        "cancel": [False, False, True, None],
        "add_timestamps": FLAGS,
        "max_buffer_delay_ms": [0, 3_000, None, -1],
        "voice": ["alloy", {"mode": "id", "id": "ash"}, "unknown", "../x"],
        "output_format": [
            FORMAT,
            FORMAT,
            {**FORMAT, "encoding": "pcm_mulaw", "sample_rate": 8_000},
            {},
            None,
            {"container": []},
        ],
    },
    "/v1/text-to-speech/alloy/stream-input": {"text": TEXTS, "flush": FLAGS, "voice_settings": [{}, None, 5]},
    "/v1/text-to-speech/alloy/stream-input?auto_mode=true&output_format=mp3_22050_32": {"text": TEXTS, "flush": FLAGS},
    "/v1/text-to-speech/alloy/multi-stream-input?output_format=ulaw_8000": {
        "text": TEXTS,
        "context_id": IDS,
        "flush": FLAGS,
        "close_context": FLAGS,
        "close_socket": [None] * 20 + [True, "x"],
    },
    "/v1/speak?encoding=mulaw&sample_rate=8000": {
        "type": ["Speak", "Speak", "Flush", "Clear", "Reset", "Close", None, [], "speak"],
        "text": TEXTS,
    },
}
CLOSES = {None, 1000, 1003, 1007, 1008}


def mutation(fields: dict[str, list[Any]], chance: random.Random) -> str | bytes:
    """Return a message, mostly a good one, perhaps with strange values or broken."""
    content = {name: chance.choice(values[:2] if chance.random() < 0.5 else values) for name, values in fields.items()}
    for name in chance.sample(list(fields), min(len(fields), chance.randint(0, 3))):
        del content[name]
    if chance.random() < 0.2:
        content[chance.choice([*fields, "zz", "", "🙂"])] = chance.choice(VALUES)
    text = json.dumps(content)
    if chance.random() < 0.1:
        at = chance.randrange(len(text))
        text = chance.choice([text[:at], text[:at] + chance.choice('{}[]",:x') + text[at:], "[" * 5_000, "", "nul"])
    return text.encode() if chance.random() < 0.1 else text


def check(path: str, sent: Any) -> str:
    """Check that an answer has its protocol's form; return its kind."""
    if isinstance(sent, bytes):
        assert path.startswith("/v1/speak")
        return "audio"
    content = json.loads(sent.encode())  # as UTF-8, which the listener sends
    if path.startswith("/tts"):
        assert content.keys() >= {"type", "done", "status_code", "context_id"}
        return str(content["type"])
    if path.startswith("/v1/speak"):
        assert content["type"] in ("Metadata", "Flushed", "Cleared", "Error")
        return str(content["type"])
    assert "error" in content or {"audio", "isFinal"} <= content.keys()
    return "error" if "error" in content else "audio"


def test_mutations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(21)
    seen: Counter[str] = Counter()

    async def run() -> None:
        service = service_before(OneChunk(), tmp_path, AtOnce(), max_input=2_000)
        app = http_app(service)
        for number in range(COUNT // MESSAGES):
            path = list(SOCKETS)[number % len(SOCKETS)]
            messages = [mutation(SOCKETS[path], chance) for _ in range(MESSAGES)]
            sent, code = await converse(app, path, messages, pauses=chance.random() < 0.5)
            assert code in CLOSES, (path, messages, code)
            seen.update(check(path, each) for each in sent)
        assert service.busy == 0

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert not [record for record in caplog.records if not record.name.startswith("grpc")]
    assert seen["audio"] + seen["chunk"] > COUNT / 20
    assert seen["error"] + seen["Error"] > COUNT / 20
