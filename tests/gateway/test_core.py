"""The core without a network: what it tells the stages of a caller, and which utterances it ends."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from misotts.serve.local import free_ports
from misotts_client import InvalidArgument, SpeechRequest, Unavailable
from misotts_client.contract import FRAME_SAMPLES, SAMPLE_RATE, check_request
from misotts_client.transport import infer_request
from misotts_gateway import memory
from misotts_gateway.access_log import AccessLog
from misotts_gateway.callers import Caller, Callers
from misotts_gateway.core import Core
from misotts_gateway.counts import Counts
from misotts_gateway.keys import Key, Keys
from misotts_gateway.limits import CallerLimits
from misotts_gateway.listeners import grpc_server
from misotts_gateway.options import GatewayOptions
from misotts_gateway.request import Asked
from misotts_gateway.text.ssml import Silence
from misotts_gateway.tickets import READERS, Note, Tickets, pack, share_of, socket_path, unpack
from misotts_gateway.triton_protocol import TritonProtocol
from misotts_gateway.turn import Turn, sounds
from tests.support.admission import figures
from tests.support.fake_triton import answer, utterance

ASKED = Asked(SpeechRequest("Hello."))
CALLER = Caller("1.1.1.1", "id")


class Upstream:
    """Answers every call with the same responses."""

    private = True

    def __init__(self, *responses: Any) -> None:
        self.responses = responses

    @asynccontextmanager
    async def call(self, message: bytes, metadata: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        async def responses() -> AsyncIterator[bytes]:
            for response in self.responses:
                yield response.SerializeToString()

        yield responses()


class Readers:
    """The sockets of the stages."""

    def __init__(self, run: Path) -> None:
        self._sockets = {reader: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for reader in READERS}
        for reader, each in self._sockets.items():
            each.bind(socket_path(run, reader))
            each.setblocking(False)

    def notes(self, reader: str) -> list[Note | None]:
        found = []
        while True:
            try:
                found.append(unpack(self._sockets[reader].recv(64)))
            except BlockingIOError:
                return found

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()


@pytest.fixture
def readers(tmp_path: Path) -> Iterator[Readers]:
    found = Readers(tmp_path)
    yield found
    found.close()


@pytest.fixture
def core_before(tmp_path: Path) -> Callable[..., Core]:
    def make(*responses: Any) -> Core:
        upstream: Any = Upstream(*responses)
        return Core(upstream, Tickets(tmp_path), CallerLimits(4), Counts(), AccessLog(None))

    return make


def test_the_stages_learn_what_was_taken_and_of_callers_that_left(
    core_before: Callable[..., Core], readers: Readers
) -> None:
    core = core_before(*utterance(3))

    async def run() -> None:
        async with aclosing(core.speak(ASKED, CALLER)) as pieces:
            async for piece in pieces:
                assert core.streams == 1
                if piece.frames == 2:
                    assert [note.frames for note in readers.notes("generate") if note] == [1], "the second is untaken"
                    break
        assert core.streams == 0
        async with aclosing(core.speak(ASKED, Caller("2.2.2.2", "id"))) as pieces:
            assert [piece.finish async for piece in pieces] == ["", "", "eos"]

    asyncio.run(run())
    left, *taken = readers.notes("generate")
    assert left
    assert left[1:] == (1, True)
    assert [note and note[1:] for note in taken] == [(1, False), (2, False), (3, False)]
    assert readers.notes("prompt") == [left]
    assert taken[0]
    assert share_of(taken[0].ticket) != share_of(left.ticket)


def test_silence_counts_in_the_time_to_the_first_audible_sample(core_before: Callable[..., Core]) -> None:
    quiet = answer(level=0.003)  # AUDIBLE is 0.00316
    loud = answer(frame=1, audio=np.repeat(np.array([-0.003, -0.0033], np.float32), 960))
    silent, late = core_before(quiet, answer(frame=1, finish="eos", level=0.0)), core_before(quiet, loud, *utterance(1))

    async def sums(core: Core) -> list[float]:
        async with aclosing(core.speak(ASKED, CALLER)) as pieces:
            async for _ in pieces:
                pass
        registry, names = core.counts.registry, ("first_audio", "first_audible", "leading_silence")
        ends = [f"misotts_gateway_{name}_seconds_{end}" for name in names for end in ("count", "sum")]
        return [registry.get_sample_value(name) or 0 for name in ends]

    count, first_s, audible_count, audible_s, silence_count, silence_s = asyncio.run(sums(late))
    assert [count, audible_count, silence_count] == [1, 1, 1]
    assert [audible_s, silence_s] == pytest.approx([first_s + 0.12, 0.12])
    assert asyncio.run(sums(silent))[2:] == [0, 0, 0, 0]


def test_a_conversation_belongs_to_its_tenant_or_address(core_before: Callable[..., Core]) -> None:
    core, asked = core_before(answer(finish="eos")), Asked(SpeechRequest("Hello.", session="mine"))
    keyed = [Caller("1.1.1.1", "id", Key(f"{tenant}-key", tenant)) for tenant in ("a", "b")]

    def sent(caller: Caller) -> Any:
        message = service_pb2.ModelInferRequest.FromString(core._message(asked, 1, caller))
        names = [each.name for each in message.inputs]
        return deserialize_bytes_tensor(message.raw_input_contents[names.index("SESSION")]).item().decode()

    assert [sent(each) for each in (*keyed, CALLER)] == ["a/mine", "b/mine", "1.1.1.1/mine"]
    with pytest.raises(InvalidArgument, match="got 'b/mine'"):
        check_request(SpeechRequest("Hello.", session="b/mine"), 2048)
    core._upstream.private = False
    assert sent(keyed[0]) == "mine", "another gateway knows the owner by the key"


def test_a_note_that_no_socket_takes_is_sent_later(tmp_path: Path, readers: Readers) -> None:
    tickets = Tickets(tmp_path)
    sent = [tickets.new(f"{index}") for index in range(2_000)]
    for ticket in sent:
        tickets.gone(ticket, 7)
    found: list[Note | None] = []
    for _ in range(4_000):
        found += readers.notes("prompt")
        readers.notes("generate")
        tickets.flush()
    assert found == [Note(ticket, 7, gone=True) for ticket in sent]
    assert unpack(pack(Note(0, 7, gone=True))) is None  # it would speak of all requests without a ticket


def test_a_reader_that_does_not_read_holds_back_its_own_notes_alone(tmp_path: Path, readers: Readers) -> None:
    tickets = Tickets(tmp_path)
    found: list[Note | None] = []
    for index in range(2_000):
        tickets.gone(tickets.new("share"), index)
        found += readers.notes("generate")
    assert len(found) == 2_000


def test_a_caller_that_takes_nothing_is_ended(
    core_before: Callable[..., Core], readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("misotts_gateway.core.STALLED_S", 0.05)
    core = core_before(answer(), answer(frame=1, finish="eos"))

    async def stalls() -> None:
        async with aclosing(core.speak(ASKED, CALLER)) as pieces:
            async for _ in pieces:
                await asyncio.sleep(60)

    async def run() -> None:
        stalled = asyncio.create_task(stalls())
        await asyncio.sleep(0.01)
        core.end_stalled()
        assert not stalled.done()
        await asyncio.sleep(0.1)
        core.end_stalled()
        await asyncio.wait([stalled], timeout=5)
        assert stalled.cancelled()

    asyncio.run(run())
    assert [note and note[1:] for note in readers.notes("prompt")] == [(0, True)]


def test_a_drain_and_a_stream_without_an_end_are_errors(core_before: Callable[..., Core], readers: Readers) -> None:
    async def speak(core: Core) -> list[str]:
        async with aclosing(core.speak(ASKED, CALLER)) as pieces:
            return [piece.finish async for piece in pieces]

    with pytest.raises(Unavailable, match="before the end of speech"):
        asyncio.run(speak(core_before(answer())))
    draining = core_before(answer(finish="eos"))
    draining.draining = True
    with pytest.raises(Unavailable, match="shutting down"):
        asyncio.run(speak(draining))
    assert b'refused_total{reason="draining"} 1.0' in draining.counts.text()


def test_a_turn_that_is_refused_is_recorded_like_an_utterance(core_before: Callable[..., Core], tmp_path: Path) -> None:
    """Turns are admitted by `Core.admit`, gRPC's requests by `Core.speak`."""
    core = core_before(answer(finish="eos"))
    core._access = AccessLog(str(tmp_path / "log"))
    core.admission.hear(figures([9.0]))

    async def refused(pieces: Any) -> None:
        async with aclosing(pieces):
            with pytest.raises(Unavailable, match="the wait for a slot would be"):
                await anext(pieces)

    asyncio.run(refused(core.speak(ASKED, CALLER)))
    asyncio.run(refused(sounds(core, Turn([Silence(500), "Hello", "."], SpeechRequest("")), CALLER)))
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = {(line["request_id"], line["characters"], line["audio_s"], line["outcome"]) for line in lines}
    assert (len(lines), told) == (2, {("id", 6, 0.0, "UNAVAILABLE")})
    counted = core.counts.text().decode()
    assert 'requests_total{outcome="UNAVAILABLE",tenant=""} 2.0' in counted
    assert 'refused_total{reason="no_slot"} 2.0' in counted


def test_a_listener_that_plays_silence_takes_it(
    core_before: Callable[..., Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("misotts_gateway.core.STALLED_S", 0.1)
    core = core_before(answer(finish="eos"))

    async def listen(rests_s: float) -> int:
        samples = 0
        turn = Turn([Silence(8_000), "Hello."], SpeechRequest(""))
        async with aclosing(sounds(core, turn, CALLER)) as pieces:
            async for piece in pieces:
                samples += len(piece.audio)
                await asyncio.sleep(rests_s)
        return samples

    async def run(rests_s: float) -> int:
        listener = asyncio.create_task(listen(rests_s))
        while not listener.done():
            await asyncio.sleep(0.01)
            core.end_stalled()
        return await listener

    assert asyncio.run(run(0.04)) == 8 * SAMPLE_RATE + FRAME_SAMPLES
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run(0.3))


def test_a_grpc_caller_that_takes_nothing_gets_an_error(
    core_before: Callable[..., Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that ended with OK would have others than our clients take it for a whole utterance."""
    monkeypatch.setattr("misotts_gateway.core.STALLED_S", 0.2)
    core = core_before(*utterance(40, samples=24_000))
    (port,) = free_ports(1)
    protocol = TritonProtocol(core, Callers((), Keys(None)), lambda: True)
    message = infer_request(SpeechRequest("Hello.")).SerializeToString()
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))

    async def run() -> tuple[int, grpc.StatusCode, str]:
        server = grpc_server(GatewayOptions(upstream="", host="127.0.0.1", grpc_port=port), protocol)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            method = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            call = method(iter([message]), timeout=20)
            await call.read()
            while core.streams:
                await asyncio.sleep(0.05)
                core.end_stalled()
            taken = 1
            with suppress(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    taken += 1
            status = await call.code(), await call.details()
        await server.stop(None)
        return taken, *status

    taken, code, details = asyncio.run(run())
    assert 0 < taken < 40
    assert code == grpc.StatusCode.UNAVAILABLE
    assert details.startswith("UNAVAILABLE: nothing was taken while audio waited")
    assert b'requests_total{outcome="UNAVAILABLE",tenant=""} 1.0' in core.counts.text()


def test_the_memory_guard_ends_the_older_half_of_the_incomplete_requests() -> None:
    ended: list[str] = []

    def call(name: str, began: float, **more: Any) -> Any:
        fields = dict(busy=False, closed=False, requests=0) | more
        return SimpleNamespace(began=began, end=lambda error: ended.append(name), **fields)

    listening = [call("busy", 1, busy=True), call("closed", 1, closed=True), call("idle", 2, requests=3)]
    new = [call(f"new {began}", began) for began in (5, 3, 4)]
    assert memory.end_incomplete([*listening, *new]) == 2
    assert ended == ["new 3", "new 4"]
    assert memory.end_incomplete(listening) == 1
    assert ended[-1] == "idle"
