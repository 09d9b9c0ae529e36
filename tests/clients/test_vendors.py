"""The SDKs of Cartesia, ElevenLabs and Deepgram, for Python and for Node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clients import Ran
from tests.support.gateway import RunningGateway

TEXT = "Good morning, how are you today?"
LONG = "This is a long answer that is interrupted before it has come to its end, which is far away."
WORDS = f"{TEXT} "
"""What the model hears of text that comes word by word."""


@pytest.fixture(scope="module")
def tls(tls_gateway: tuple[RunningGateway, Path]) -> dict[str, str]:
    gateway, certificate = tls_gateway
    named = {name: str(certificate) for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")}
    return {"MISOTTS_TLS": f"https://localhost:{gateway.http_port}", **named}


def test_cartesia(run: Callable[..., Ran], assert_heard: Callable[..., None]) -> None:
    ran = run("cartesia", "cartesia_sdk.py", TEXT, LONG)
    assert ran.found == {
        **{"voice": ["NotFoundError", 404], "key": ["AuthenticationError", 401]},
        "words": TEXT.split(),
    }
    assert_heard(ran.pcm("http"), TEXT)
    for name in ("socket", "again"):  # a new connection is a new conversation
        assert_heard(ran.pcm(name), WORDS)
        assert_heard(ran.pcm(f"{name} after"), WORDS, later=True)


def test_deepgram(run: Callable[..., Ran], assert_heard: Callable[..., None]) -> None:
    ran = run("deepgram", "deepgram_sdk.py", TEXT, LONG)
    assert ran.found == {"voice": 404, "key": 401}
    assert_heard(ran.pcm("http"), TEXT)
    for name in ("socket", "again"):
        assert_heard(ran.pcm(name), WORDS)
        assert_heard(ran.pcm(f"{name} after"), WORDS, later=True)


def test_elevenlabs(run: Callable[..., Ran], assert_heard: Callable[..., None], tls: dict[str, str]) -> None:
    ran = run("elevenlabs", "elevenlabs_sdk.py", TEXT, **tls)
    assert {name: ran.found[name] for name in ("voice", "key", "characters")} == {
        **{"voice": 404, "key": 401, "characters": TEXT}
    }
    assert "alloy" in ran.found["voices"]
    for name in ("whole", "streamed", "timed"):
        assert_heard(ran.pcm(name), TEXT)
    assert_heard(ran.pcm("realtime"), f"{WORDS} ")  # the SDK adds a space of its own


def test_node(run: Callable[..., Ran], assert_heard: Callable[..., None], tls: dict[str, str]) -> None:
    ran = run("node", "vendors_node.cjs", TEXT, **tls)
    assert ran.found == {"cartesia": 404, "elevenlabs": 404}
    for name in ("cartesia", "elevenlabs", "deepgram"):
        assert_heard(ran.pcm(name), TEXT)
    for name in ("cartesia socket", "deepgram socket"):
        assert_heard(ran.pcm(name), WORDS)
