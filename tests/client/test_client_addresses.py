"""TLS, a key, metadata and several addresses, in both clients and in `say`."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.fleet.envoy import write_certificate
from misotts_client import AsyncClient, Client, Segment, Speech, Unavailable
from misotts_client.say import say
from tests.support.fake_triton import FakeTriton, running, utterance
from tests.support.gateway import running_gateway, write_keys

pytestmark = pytest.mark.timeout(60)

Speak = Callable[..., list[Speech]]
CONTEXT = [Segment("Two megabytes.", 0, np.zeros(500_000, np.float32))]


def speak_blocking(url: str, times: int = 1, **options: Any) -> list[Speech]:
    with Client(url, **options) as client:
        return [client.speak("Hello.", context=CONTEXT) for _ in range(times)]


def speak_async(url: str, times: int = 1, **options: Any) -> list[Speech]:
    async def run() -> list[Speech]:
        async with AsyncClient(url, **options) as client:
            return [await client.speak("Hello.", context=CONTEXT) for _ in range(times)]

    return asyncio.run(run())


both_clients = pytest.mark.parametrize("speak", [speak_blocking, speak_async])


@pytest.fixture
def servers() -> Iterator[list[FakeTriton]]:
    with ExitStack() as stack:
        found = [stack.enter_context(running()) for _ in range(2)]
        for each in found:
            each.script = lambda request, context: utterance(1)
        yield found


@both_clients
def test_calls_take_turns_among_the_servers_of_a_list(speak: Speak, servers: list[FakeTriton]) -> None:
    assert len(speak(",".join(each.url for each in servers), times=8)) == 8
    assert all(len(each.requests) >= 2 for each in servers)


@both_clients
def test_a_refusal_goes_to_the_next_server_of_a_list(speak: Speak, servers: list[FakeTriton]) -> None:
    def refuse(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: the server is shutting down")
        yield from ()

    servers[0].script = refuse
    assert [each.finish for each in speak(",".join(each.url for each in servers), times=4)] == ["eos"] * 4
    assert len(servers[0].requests) >= 1
    with pytest.raises(Unavailable):  # one server alone is not asked again
        speak(servers[0].url)


@both_clients
@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("localhost:1,localhost:2", {}, "IP addresses of one family"),
        ("127.0.0.1:1,[::1]:2", {}, "IP addresses of one family"),
        ("127.0.0.1:1", {"ca": "x.pem"}, "https://127.0.0.1:1"),
        ("127.0.0.1:1", {"metadata": {"X-Team": "a"}}, "'X-Team'"),
        ("127.0.0.1:1", {"metadata": {"x-team": "a\n"}}, "printable"),
    ],
)
def test_what_cannot_be_used_is_refused(speak: Speak, url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"got|needs") as caught:
        speak(url, **options)
    assert words in str(caught.value)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_two_gateways_with_tls_and_keys(servers: list[FakeTriton], tmp_path: Path) -> None:
    chain, key = write_certificate(tmp_path)
    keys = write_keys(tmp_path / "keys", {"secret": {"name": "app"}})
    log = tmp_path / "log"
    options = [f"--tls-cert={chain}", f"--tls-key={key}", f"--api-keys={keys}", f"--access-log={log}"]
    app = typer.Typer()
    app.command()(say)
    with running_gateway(servers[0].url, *options) as one, running_gateway(servers[1].url, *options) as two:
        url = f"https://{one.url},{two.url}"
        for speak in (speak_blocking, speak_async):
            assert len(speak(url, 4, api_key="secret", ca=chain, metadata={"x-request-id": "mine"})) == 4
        command = ["Hello.", "-o", str(tmp_path / "out.wav"), "--url", url, "--ca", str(chain), "--api-key", "secret"]
        said = CliRunner().invoke(app, [*command, "--metadata", "x-request-id=said"])
        assert said.exit_code == 0, said.output
        wrong = CliRunner().invoke(app, [*command, "--metadata", "x-request-id"])
        assert (wrong.exit_code, "NAME=VALUE" in wrong.output) == (2, True)
        with pytest.raises(Unavailable):  # the certificate is not trusted
            speak_blocking(url, api_key="secret")
    assert all(each.requests for each in servers)
    assert log.read_text().count('"mine"') == 8
    assert log.read_text().count('"said"') == 1
