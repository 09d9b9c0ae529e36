"""What any client of the public ports can try, each beside eight listeners that must not notice.

`make attack` runs it. Every case takes turns with the same run of the listeners without it; the listeners are in a
process of their own. A case whose listeners did worse is run again: an attack that works does so every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.load.playback import Arrival, play
from misotts.serve.local import RunningServer, running_server
from misotts_client import AsyncClient, Client, Segment, SpeechRequest, Unavailable
from misotts_client.errors import MisoError
from misotts_client.transport import infer_request
from tests.support.processes import gateway_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LISTENERS = 8
LISTEN_MS = 4_000
HEAD_START_S = 0.25
"""A player that waits this long before its first sample, as most do, is continuous if it never runs out."""
CUT_S = 1e6
TURNS = 3
MEMORY_MIB = 300
PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
INNER = re.compile(r"prompt|generate\b|decode|ensemble|TICKET|SECRET|ORDER|unix:|misotts-")
"""Names that no caller may read."""

Attack = Callable[[RunningServer], None]


def hear(url: str) -> list[float]:
    """Hear eight utterances at once; return for each the seconds of silence within it, `CUT_S` if it is not whole."""

    async def one(client: AsyncClient, seed: int) -> float:
        arrivals, samples = [], 0
        try:
            async for chunk in client.stream("Hello there.", seed=seed, max_audio_ms=LISTEN_MS):
                arrivals.append(Arrival(time.monotonic(), len(chunk.audio)))
                samples += len(chunk.audio)
        except MisoError:
            return CUT_S
        return play(arrivals).underrun_s if samples == LISTEN_MS * 24 else CUT_S

    async def all_of_them() -> list[float]:
        async with AsyncClient(url) as client:
            return list(await asyncio.gather(*(one(client, seed) for seed in range(LISTENERS))))

    return asyncio.run(all_of_them())


def continuity(silences: list[float]) -> float:
    """Return the share of utterances without a gap. Every one must be whole, however slow the machine is."""
    assert max(silences) < CUT_S
    return sum(silence <= HEAD_START_S for silence in silences) / len(silences)


@pytest.fixture(scope="module")
def server(demo_folder: Path) -> Iterator[RunningServer]:
    with running_server(demo_folder, f"--max-streams={LISTENERS}", f"--memory-limit-mib={MEMORY_MIB}") as running:
        yield running


@pytest.fixture(scope="module")
def listeners() -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


def raw_call(server: RunningServer, *messages: bytes, **options: Any) -> tuple[grpc.StatusCode, str]:
    """Send messages on a call; return its status and its details, or the first error in the stream."""
    with grpc.insecure_channel(server.url, OPTIONS) as channel:
        call = channel.stream_stream(PATH)(iter(messages), timeout=20, **options)
        try:
            for data in call:
                if error := service_pb2.ModelStreamInferResponse.FromString(data).error_message:
                    return grpc.StatusCode.OK, error
        except grpc.RpcError:
            pass
        return call.code(), call.details() or ""


def message(**raw: tuple[str, list[int], bytes]) -> bytes:
    """Return a request of tensors as (type, shape, bytes)."""
    request = service_pb2.ModelInferRequest(model_name="misotts")
    for name, (datatype, shape, data) in raw.items():
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    return bytes(request.SerializeToString())


HELLO = ("BYTES", [1], b"\x05\0\0\0Hello")


def wrong_byte_counts_and_inner_models(server: RunningServer) -> None:
    """P: no error names anything of the inside, and no stage answers."""
    for text in (b"\xff\xff\xff\xffHello", HELLO[2][:-1], HELLO[2] + b"!", b"", b"\x05"):
        _, details = raw_call(server, message(TEXT=("BYTES", [1], text)))
        assert "INVALID_ARGUMENT: TEXT" in details
        assert not INNER.search(details), details
    header = ("UINT8", [48], bytes(48))
    codes = ("INT32", [2, 32], bytes(256))
    for stage in ("prompt", "generate", "decode", "watermark"):
        request = service_pb2.ModelInferRequest.FromString(message(HEADER=header, CODES=codes, TEXT=HELLO))
        request.model_name = stage
        code, details = raw_call(server, request.SerializeToString())
        assert code is grpc.StatusCode.NOT_FOUND
        assert not INNER.search(details.replace(f"'{stage}'", ""))
    for name in ("TICKET", "ORDER", "FRAMES"):
        assert raw_call(server, message(TEXT=HELLO, **{name: ("INT64", [1], bytes(8))}))[0] is BAD
    with grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for call, request in (
            (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
            (stub.SystemSharedMemoryRegister, service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/y")),
            (stub.TraceSetting, service_pb2.TraceSettingRequest()),
            (stub.LogSettings, service_pb2.LogSettingsRequest()),
            (stub.ModelStatistics, service_pb2.ModelStatisticsRequest(name="prompt")),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


BAD = grpc.StatusCode.INVALID_ARGUMENT


def requests_that_killed_triton(server: RunningServer) -> None:
    """R: nested JSON, classification, hostile shapes, triton_grpc_error with cancels, chunked HTTP."""
    classified = service_pb2.ModelInferRequest.FromString(message(TEXT=HELLO))
    classified.outputs.add(name="AUDIO").parameters["classification"].int64_param = 3
    assert raw_call(server, classified.SerializeToString())[0] is BAD
    for shape in ([-1], [2**62], [0], [], [1] * 60, [2**31, 2**33]):
        assert raw_call(server, message(TEXT=("BYTES", shape, HELLO[2])))[0] is BAD
    with grpc.insecure_channel(server.url) as channel:
        request = infer_request(SpeechRequest("Hello.", voice="unknown")).SerializeToString()
        for _ in range(100):
            call = channel.unary_stream(PATH)(request, metadata=(("triton_grpc_error", "true"),))
            call.cancel()
    nested = b'{"inputs":' + b"[" * 400_000
    for path in ("/v2/models/misotts/infer", "/v1/audio/speech", "/v2/repository/index"):
        assert http(server, path, nested) in range(400, 500)
        assert http(server, path, nested, chunked=True) in range(400, 500)


def http(server: RunningServer, path: str, body: bytes, chunked: bool = False) -> int:
    """POST raw bytes; return the status."""
    with socket.create_connection(("127.0.0.1", server.ports.http), timeout=10) as connection:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
        parts = [b"%x\r\n%b\r\n" % (len(body), body), b"0\r\n\r\n"] if chunked else [body]
        with contextlib.suppress(ConnectionError):  # it may refuse before it has everything
            connection.sendall(b"".join([head.encode(), *parts]))
        return int(connection.recv(64).split()[1])


def compressed_bombs(server: RunningServer) -> None:
    """S: what is compressed is refused unread, and what is too large too."""
    bomb = bytes(40 * 2**20)
    for _ in range(8):
        code, _ = raw_call(server, bomb, compression=grpc.Compression.Gzip)
        assert code is grpc.StatusCode.UNIMPLEMENTED
    assert raw_call(server, bomb)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def millions_of_texts(server: RunningServer) -> None:
    """T: refused by their size."""
    for count in (10**7, 3 * 10**6):
        texts = ("BYTES", [count], bytes(4 * min(count, 3 * 10**6)))
        code, details = raw_call(server, message(TEXT=HELLO, CONTEXT_TEXT=texts))
        assert (code, "CONTEXT_TEXT" in details) == (BAD, True)
    assert raw_call(server, b"\x2a\x00" * 5_000_000)[0] is BAD


def callers_that_do_not_read(server: RunningServer) -> None:
    """V: what they do not take delays no other caller. They wait for a slot beside the listeners."""
    channels = [grpc.insecure_channel(server.url, OPTIONS) for _ in range(20)]
    request = infer_request(SpeechRequest("Hello.", max_audio_ms=60_000)).SerializeToString()
    calls = [channel.unary_stream(PATH)(request) for channel in channels]
    time.sleep(2)
    for call in calls:
        call.cancel()
    for channel in channels:
        channel.close()


def contexts_of_callers_that_leave(server: RunningServer) -> None:
    """W: nothing is encoded for those who have left: the next context is served soon."""
    noise = np.random.default_rng(1).normal(0, 0.1, 24_000 * 40).astype(np.float32)
    with Client(server.url) as client:
        for _ in range(12):
            stream = client.stream("Hello.", context=[Segment("Before.", 0, noise)], max_audio_ms=80)
            time.sleep(0.05)
            stream.cancel()
        began = time.monotonic()
        with contextlib.suppress(Unavailable):
            client.speak("Hello.", context=[Segment("Before.", 0, noise[:2400])], max_audio_ms=80)
        assert time.monotonic() - began < LISTEN_MS / 1000 + 6, "it waits for a slot, not for twelve encodings"


def silent_connections(server: RunningServer) -> None:
    """Y: 400 silent connections at each port, half of them in the middle of a request; new callers are served."""
    with contextlib.ExitStack() as stack:
        for port in vars(server.ports).values():
            for index in range(400):
                with contextlib.suppress(OSError):
                    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))
                    if index % 2:
                        connection.sendall(b"GET /ready HTTP/1.1\r\nHost:")
        time.sleep(0.5)  # a sweep
        began = time.monotonic()
        assert raw_call(server, message(TEXT=("BYTES", [1], b"")))[0] is BAD
        assert time.monotonic() - began < 1
        time.sleep(5.5)  # they are closed after 5 s
        assert server.readiness()[0] == 200


def half_requests(server: RunningServer) -> None:
    """The memory guard: 60 requests of 10 MB whose last byte never comes."""
    gateway = gateway_of(server)
    most = 0
    for _ in range(2):
        with contextlib.suppress(h2.exceptions.ProtocolError, OSError):
            send_half_requests(server.ports.grpc, 30, 10 * 2**20)
        most = max(most, gateway.memory_info().rss)
    assert most < (MEMORY_MIB + 150) * 2**20
    assert raw_call(server, message(TEXT=("BYTES", [1], b"")))[0] is BAD


def send_half_requests(port: int, streams: int, size: int) -> None:
    """Send requests without their last bytes on one connection, as fast as its windows allow, for up to 4 s."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "x")]
    headers += [("content-type", "application/grpc"), ("te", "trailers")]
    end = time.monotonic() + 4
    with socket.create_connection(("127.0.0.1", port), timeout=1) as raw:
        left = {}
        for _ in range(streams):
            stream = connection.get_next_available_stream_id()
            connection.send_headers(stream, headers)
            connection.send_data(stream, b"\0" + (size + 1).to_bytes(4, "big"))
            left[stream] = size
        while any(left.values()) and time.monotonic() < end:
            for stream, missing in left.items():
                while missing and (most := min(missing, connection.local_flow_control_window(stream), 16_384)) > 0:
                    connection.send_data(stream, bytes(most))
                    missing -= most
                left[stream] = missing
            raw.settimeout(2)
            raw.sendall(connection.data_to_send())
            raw.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                for event in connection.receive_data(raw.recv(65_536)):
                    if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        left[event.stream_id] = 0  # the guard has ended it
        time.sleep(0.3)


def floods(server: RunningServer) -> None:
    """Garbage, resets, pings, large metadata and connections, for 3 s together."""
    end = time.monotonic() + 3

    def garbage() -> None:
        with grpc.insecure_channel(server.url, OPTIONS) as channel:
            while time.monotonic() < end:
                calls = [channel.unary_stream(PATH)(b"\xff" * 100) for _ in range(20)]
                for call in calls[::2]:
                    call.cancel()
                for call in calls[1::2]:
                    with contextlib.suppress(grpc.RpcError):
                        list(call)

    def connections() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", server.ports.grpc), timeout=1).close()
            time.sleep(0.001)

    def metadata() -> None:
        while time.monotonic() < end:
            code, _ = raw_call(server, message(TEXT=HELLO), metadata=(("x", "y" * 60_000),))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    def pings() -> None:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9).replace(bytes(4), b"\0\0\0\x04", 1)
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.ports.grpc), 1) as raw:
                raw.sendall(preface + b"\0\0\x08\x06\0\0\0\0\0pingping" * 100)
                while raw.recv(4096):
                    pass

    with ThreadPoolExecutor(4) as pool:
        for flood in [pool.submit(each) for each in (garbage, connections, metadata, pings)]:
            flood.result()


def more_callers_than_places(server: RunningServer) -> None:
    """Z: 120 more callers: each waits or is refused with a time to try again; the listeners go on."""
    with Client(server.url) as client:
        streams = [client.stream("Hello.", max_audio_ms=8_000) for _ in range(120)]
        time.sleep(2)
        for stream in streams:
            stream.cancel()


ATTACKS: dict[str, Attack] = {
    "P": wrong_byte_counts_and_inner_models,
    "R": requests_that_killed_triton,
    "S": compressed_bombs,
    "T": millions_of_texts,
    "V": callers_that_do_not_read,
    "W": contexts_of_callers_that_leave,
    "Y": silent_connections,
    "Z": more_callers_than_places,
    "half requests": half_requests,
    "floods": floods,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_listeners_do_not_notice(server: RunningServer, listeners: Any, name: str) -> None:
    turns = []
    for turn in range(TURNS):
        without = continuity(listeners.apply(hear, (server.url,)))
        hearing = listeners.apply_async(hear, (server.url,))
        time.sleep(0.7)  # the attack comes while they listen
        ATTACKS[name](server)
        beside = continuity(hearing.get(timeout=60))
        turns.append((without, beside))
        if beside >= without:
            break
        assert turn < TURNS - 1, f"continuity without and beside the attack, in turns: {turns}"
    print(f"{name}: continuity without and beside, in turns: {turns}")
    assert server.process.poll() is None
    deadline = time.monotonic() + 10
    while server.readiness()[1]["streams"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.readiness()[1]["streams"] == 0
