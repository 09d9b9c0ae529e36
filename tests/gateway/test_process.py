"""The gateway's process: keys, TLS, access log, proxies, the launcher's commands, and one gateway before another."""

from __future__ import annotations

import json
import queue
import resource
import shutil
import signal
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed

from benchmarks.fleet.envoy import write_certificate
from misotts.cli.main import app
from misotts_client import Client, InvalidArgument, SpeechRequest, Unavailable
from misotts_client.transport import infer_request
from tests.support.fake_triton import FakeTriton, answer, endless, utterance
from tests.support.gateway import RunningGateway, running_gateway, write_keys
from tests.support.http import dechunked
from tests.support.tone import speak_tone
from tests.support.waiting import wait_until
from tests.support.ws import talking


@pytest.fixture
def fake(shared_triton: FakeTriton) -> FakeTriton:
    shared_triton.reset()
    return shared_triton


def test_keys_tenants_and_the_access_log(fake: FakeTriton, tmp_path: Path) -> None:
    ann = {"name": "ann", "tenant": "acme", "streams": 1}
    keys, log = write_keys(tmp_path / "keys", {"key of ann": ann}), tmp_path / "access"
    options = [f"--api-keys={keys}", f"--access-log={log}", "--trusted-proxies=127.0.0.0/8"]
    with running_gateway(fake.url, *options) as gateway:
        for key in (None, "wrong"):
            with Client(gateway.url, key) as client, pytest.raises(InvalidArgument, match="API key"):
                client.speak("Hello.")
        with Client(gateway.url, "key of ann") as client:
            client.speak("Hello.")
            fake.script = endless
            with client.stream("Hello there.") as stream:
                next(stream)
                with pytest.raises(Unavailable, match="the key has 1 streams"):
                    client.speak("Hello.")
            log.rename(tmp_path / "rotated")
            fake.script = lambda *_: utterance(1)
            write_keys(keys, {"key of bob": {"name": "bob"}})
            with Client(gateway.url, "key of bob") as other:
                wait_until(lambda: accepted(other), 10)
            with pytest.raises(InvalidArgument, match="not known"):
                client.speak("Hello.")
    wait_until(log.exists)
    lines = [json.loads(line) for line in (tmp_path / "rotated").read_text().splitlines()]
    first, refused, left = lines[:3]
    assert {name: first[name] for name in ("tenant", "key", "characters", "audio_s", "outcome")} == dict(
        tenant="acme", key="ann", characters=6, audio_s=0.24, outcome="eos"
    )
    assert 0 < first["ttfa_s"] <= first["duration_s"]
    assert (first["leading_silence_s"], refused["leading_silence_s"]) == (0.0, None)
    assert (first["audible_ttfa_s"], refused["audible_ttfa_s"]) == (first["ttfa_s"], None)
    assert (refused["outcome"], left["outcome"]) == ("UNAVAILABLE", "CANCELLED")
    for text in (log.read_text(), (tmp_path / "rotated").read_text()):
        assert "Hello" not in text
        assert "key of" not in text


def accepted(client: Client) -> bool:
    try:
        client.speak("Hello.")
    except InvalidArgument:
        return False
    return True


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
def test_a_new_certificate_is_used_without_a_restart(fake: FakeTriton, tmp_path: Path) -> None:
    def speak() -> str:
        roots = grpc.ssl_channel_credentials((tmp_path / "tls.crt").read_bytes())
        with grpc.secure_channel(f"localhost:{gateway.grpc_port}", roots) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            answer = str(live(b"", timeout=5))
        trusting = ssl.create_default_context(cafile=tmp_path / "tls.crt")
        wait_until(lambda: page(trusting) == 200, 5)  # HTTP's listener looks at the files every 2 s
        return answer

    def page(trusting: ssl.SSLContext) -> int:
        try:
            with urllib.request.urlopen(f"https://localhost:{gateway.http_port}/", context=trusting, timeout=5) as page:
                return int(page.status)
        except urllib.error.URLError:  # it shows the certificate that is not trusted any more
            return 0

    write_certificate(tmp_path, "one")
    options = [f"--tls-cert={tmp_path}/tls.crt", f"--tls-key={tmp_path}/tls.key"]
    with running_gateway(fake.url, *options) as gateway:
        assert speak() == repr(b"\x08\x01")
        write_certificate(tmp_path, "two")
        assert speak() == repr(b"\x08\x01"), "the new certificate is the only one that the client trusts"


def test_a_gateway_before_a_gateway(fake: FakeTriton, tmp_path: Path) -> None:
    log = tmp_path / "access"
    with (
        running_gateway(fake.url, f"--access-log={log}", "--trusted-proxies=127.0.0.1") as inner,
        running_gateway(inner.url, "--trusted-proxies=127.0.0.1") as outer,
        grpc.insecure_channel(outer.url) as channel,
        Client(outer.url) as client,
    ):
        assert client.speak("Hello.").finish == "eos"
        with pytest.raises(InvalidArgument) as caught:
            client.speak("Hello.", top_k=0)
        assert caught.value.field == "TOP_K"
        fake.script = lambda *_: iter([answer(finish="eos")])
        message = infer_request(SpeechRequest("Hello.")).SerializeToString()
        metadata = (("x-forwarded-for", "8.8.8.8"), ("x-request-id", "mine"))
        method = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        assert len(list(method(iter([message]), metadata=metadata, timeout=10))) == 1
        fake.script = endless
        with client.stream("Hello.") as stream:
            next(stream)
        assert fake.cancelled.wait(2)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["address"], line["outcome"]) for line in lines[:2]] == [("127.0.0.1", "eos"), ("8.8.8.8", "eos")]
    assert lines[1]["request_id"] == "mine"


class Launcher:
    """A stand-in for the launcher: its end of the control connection."""

    def __init__(self, path: Path) -> None:
        self.messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, line: bytes) -> None:
        self.connection.sendall(line + b"\n")

    def close(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        self.connection, _ = self._listener.accept()
        for line in self.connection.makefile("rb"):
            self.messages.put(json.loads(line))


@pytest.fixture
def launched(fake: FakeTriton, tmp_path: Path) -> Iterator[tuple[Launcher, RunningGateway]]:
    launcher = Launcher(tmp_path / "control")
    with running_gateway(fake.url, f"--launcher={tmp_path}/control") as gateway:
        yield launcher, gateway


READY = json.dumps({"command": "state", "ready": True, "phase": "serving", "streams": 0}).encode()


def test_the_launcher_says_when_it_is_ready_and_when_to_drain(
    fake: FakeTriton, launched: tuple[Launcher, RunningGateway]
) -> None:
    """A drain refuses new requests in words, waits for the callers' last chunks, and ends with status 0."""
    launcher, gateway = launched
    states = [launcher.messages.get(timeout=5) for _ in range(3)]
    assert [message.get("state") for message in states] == ["loading", "ready", None]
    assert states[2]["report"] == {"streams": 0}
    for line in (b"nonsense", b'{"command": {}}', b"[1]", b"\xff", READY):
        launcher.send(line)
    with grpc.insecure_channel(gateway.url) as channel, Client(gateway.url) as client:
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        wait_until(lambda: health(b"", timeout=5) == b"\x08\x01")
        go_on = threading.Event()

        def paused(*_: Any) -> Iterator[Any]:
            yield answer()
            go_on.wait(10)
            yield answer(frame=1, finish="eos")

        fake.script = paused
        stream = client.stream("Hello.")
        next(stream)
        launcher.send(b'{"command": "drain"}')
        wait_until(lambda: health(b"", timeout=5) == b"\x08\x02")
        with pytest.raises(Unavailable, match="shutting down"):
            client.speak("Hello.")
        time.sleep(0.1)
        assert gateway.process.poll() is None
        go_on.set()
        assert [chunk.finish for chunk in stream] == ["eos"]
    assert gateway.process.wait(8) == 0


def test_a_gateway_ends_with_its_launcher(launched: tuple[Launcher, RunningGateway]) -> None:
    launcher, gateway = launched
    launcher.close()
    assert gateway.process.wait(5) == 1


def test_sigterm_drains(fake: FakeTriton) -> None:
    with running_gateway(fake.url) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(8) == 0


@pytest.mark.long
def test_a_drain_waits_until_the_kernel_has_sent_everything(fake: FakeTriton, tmp_path: Path) -> None:
    """12 s of audio are in the kernel, and three callers read nothing for a while: over HTTP on a connection that stays
    and on one that is closed with the answer, and over a WebSocket."""
    fake.script = speak_tone()
    launcher, text = Launcher(tmp_path / "control"), "x" * 200
    with running_gateway(fake.url, f"--launcher={tmp_path}/control") as gateway, ExitStack() as opened:
        launcher.send(READY)
        body = json.dumps({"input": text, "response_format": "mulaw"}).encode()
        callers = []
        for connection in ("keep-alive", "close"):
            callers.append(opened.enter_context(small_buffer(gateway.http_port)))
            head = "POST /v1/audio/speech HTTP/1.1\r\nhost: a\r\ncontent-type: application/json"
            lengths = f"connection: {connection}\r\ncontent-length: {len(body)}"
            callers[-1].sendall(f"{head}\r\n{lengths}\r\n\r\n".encode() + body)
        reading = opened.enter_context(small_buffer(gateway.http_port))
        talker = opened.enter_context(talking(gateway.http_port, MULAW, sock=reading, max_queue=1))
        talker.send({"type": "Speak", "text": text}, {"type": "Flush"})
        wait_until(lambda: 'outcome="eos",tenant=""} 3.0' in gateway.metrics())
        launcher.send(b'{"command": "drain"}')
        for _ in range(10):  # longer than the launcher would let a gateway without streams live, and CLOSE_S
            while not launcher.messages.empty():
                reported = launcher.messages.get()
            assert gateway.process.poll() is None, "the kernel has not sent everything"
            time.sleep(0.4)
        assert reported["report"]["streams"] == 3, "the launcher has to wait"
        heard = lambda _: sum(len(each) for each in talker.got if isinstance(each, bytes)) == 12 * 8_000  # noqa: E731
        talker.until(heard, 10)
        for caller in reversed(callers):  # the connection that stays ends with the gateway
            raw = b""
            caller.settimeout(10)
            while part := caller.recv(65_536):
                raw += part
            audio, complete = dechunked(raw.partition(b"\r\n\r\n")[2])
            assert (len(audio), complete) == (12 * 8_000, True)
        with pytest.raises(ConnectionClosed) as closed:
            talker.until(lambda _: False, 10)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1012
        assert gateway.process.wait(8) == 0


MULAW = "/v1/speak?encoding=mulaw&sample_rate=8000&container=none"


def small_buffer(port: int) -> socket.socket:
    """Return a connection to a port that takes little before its caller reads."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(("127.0.0.1", port))
    return caller


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host=no.such.host.invalid"], "--host no.such.host.invalid has no address"),
        (["--host="], "--host must not be empty"),
        (["--api-keys=/nonexistent"], "cannot read /nonexistent: No such file"),
        (["--tls-cert=/nonexistent"], "--tls-cert and --tls-key come together"),
        (["--tls-key=/nonexistent"], "--tls-cert and --tls-key come together"),
        (
            ["--tls-cert=/none", "--tls-key=/no.key"],
            "certificate /none with the key /no.key: No such file",
        ),
        ([f"--tls-cert={__file__}", f"--tls-key={__file__}"], f"certificate {__file__} with the key {__file__}: [SSL]"),
        (["--access-log=/nonexistent/log"], "/nonexistent/log: No such file"),
        (["--trusted-proxies=10.0.0.1/8"], "10.0.0.1/8"),
    ],
)
def test_an_option_that_cannot_be_used_is_one_line(options: list[str], words: str) -> None:
    ended = CliRunner().invoke(app, ["gateway", "--upstream=127.0.0.1:1", "--grpc-port=1", *options])
    assert ended.exit_code in (1, 2)
    assert words in ended.output
    assert ended.exception is None or isinstance(ended.exception, SystemExit)


def test_the_newest_connections_beyond_an_addresss_limit_are_closed(fake: FakeTriton) -> None:
    """With 160 descriptors an address may have the least number of connections, 8."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))  # noqa: E731
    with running_gateway(fake.url, preexec_fn=limit) as gateway, Client(gateway.url) as client:
        client.speak("Hello.")
        silent = [socket.create_connection(("127.0.0.1", gateway.grpc_port)) for _ in range(60)]
        wait_until(lambda: sum(is_closed(each) for each in silent) == 53)
        assert client.speak("Hello.").finish == "eos", "the oldest connection stays"
        for each in silent:
            each.close()


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while data := connection.recv(4096):  # the server's preface
            del data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
