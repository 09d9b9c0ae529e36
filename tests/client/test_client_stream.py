"""Both clients against a scripted server: the same cases, blocking and asyncio."""

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from misotts_client import (
    AsyncClient,
    Cancelled,
    Chunk,
    Client,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MisoError,
    NotFound,
    Speech,
    Unavailable,
)
from misotts_client.transport import is_loopback
from tests.support.fake_triton import FakeTriton, Script, answer, endless, last_flag, refusal, silent, utterance
from tests.support.tone import inputs

pytestmark = pytest.mark.timeout(20)

UNAVAILABLE, UNIMPLEMENTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED
Collected = tuple[list[Chunk], MisoError | None]
Collect = Callable[..., Collected]


def collect_blocking(url: str, **fields: Any) -> Collected:
    """Return all chunks of a stream, and the error that ended it."""
    chunks: list[Chunk] = []
    with Client(url) as client:
        try:
            for chunk in client.stream("hello", **fields):
                chunks.append(chunk)
        except MisoError as error:
            return chunks, error
    return chunks, None


async def collect_async(url: str, **fields: Any) -> Collected:
    chunks: list[Chunk] = []
    async with AsyncClient(url) as client:
        try:
            async for chunk in client.stream("hello", **fields):
                chunks.append(chunk)
        except MisoError as error:
            return chunks, error
    return chunks, None


@pytest.fixture(params=["blocking", "async"])
def collect(request: pytest.FixtureRequest) -> Collect:
    if request.param == "blocking":
        return collect_blocking
    return lambda url, **fields: asyncio.run(collect_async(url, **fields))


def scripted(*responses: Any) -> Script:
    return lambda request, context: iter(responses)


def aborted(status: grpc.StatusCode, text: str, *responses: Any) -> Script:
    """Send the responses and end the call with a status."""

    def script(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from responses
        context.abort(status, text)

    return script


@pytest.mark.parametrize("end", [[], [last_flag()]], ids=["flag with the last chunk", "flag on an empty response"])
def test_an_utterance(triton: FakeTriton, collect: Collect, end: list[Any]) -> None:
    triton.script = lambda request, context: iter([*utterance(3, seed=2**62), answer(0, 3)][:3] + end)
    chunks, error = collect(triton.url, seed=2**62)
    assert error is None
    ends = [(chunk.frame, chunk.seed, chunk.finish) for chunk in chunks]
    assert ends == [(0, 2**62, ""), (1, 2**62, ""), (2, 2**62, "eos")]
    for chunk in chunks:
        assert chunk.audio.dtype == np.float32
        assert chunk.audio.flags.writeable
        np.testing.assert_array_equal(chunk.audio, np.full(1920, 0.5, np.float32))
    assert triton.drained.wait(5)  # our side was closed and every response was read
    assert not triton.cancelled.is_set()
    assert "triton_grpc_error" not in triton.metadata  # this header crashes the real server
    assert len(triton.requests) == 1


def test_the_last_chunk_may_be_empty(triton: FakeTriton, collect: Collect) -> None:
    triton.script = scripted(answer(), answer(samples=0, frame=1, finish="length"))
    chunks, error = collect(triton.url)
    assert error is None
    assert [(len(chunk.audio), chunk.finish) for chunk in chunks] == [(1920, ""), (0, "length")]


@pytest.mark.parametrize("prefix", ["", "in ensemble 'misotts', ", "in ensemble 'misotts', [request id: a] "])
@pytest.mark.parametrize(
    "refused",
    [
        InvalidArgument("TEXT", "must not be empty"),
        NotFound("VOICE", "there is no voice 'bob'"),
        Unavailable("32 streams are running and 64 wait; try again in 3 s", retry_after_s=3),
        DeadlineExceeded("10 ms passed before the first chunk"),
    ],
    ids=lambda error: error.code,
)
def test_a_refusal(triton: FakeTriton, collect: Collect, refused: MisoError, prefix: str) -> None:
    triton.script = scripted(refusal(prefix + str(refused)))
    chunks, error = collect(triton.url)
    assert not chunks
    assert type(error) is type(refused)
    assert str(error) == str(refused)
    assert vars(error) == vars(refused)


def test_an_error_in_the_middle_of_speech(triton: FakeTriton, collect: Collect) -> None:
    triton.script = scripted(answer(), answer(samples=0, finish="error: DEADLINE_EXCEEDED: 500 ms passed"), last_flag())
    chunks, error = collect(triton.url)
    assert (len(chunks), type(error), str(error)) == (1, DeadlineExceeded, "DEADLINE_EXCEEDED: 500 ms passed")
    assert triton.drained.wait(5)
    assert not triton.cancelled.is_set()


CLOSED = "UNAVAILABLE: the server closed the stream before the end of speech"


@pytest.mark.parametrize(
    ("script", "heard", "text"),
    [
        pytest.param(scripted(answer()), 1, CLOSED, id="closed early"),
        pytest.param(scripted(answer(), last_flag()), 1, CLOSED, id="closed early with a flag"),
        pytest.param(aborted(UNAVAILABLE, "gone", answer()), 1, "UNAVAILABLE: URL: gone", id="broken"),
        pytest.param(aborted(UNAVAILABLE, "gone", *utterance(2)), 2, "None", id="broken after the end of speech"),
        pytest.param(aborted(UNIMPLEMENTED, "what?"), 0, "INTERNAL: URL: what?", id="not Triton"),
    ],
)
def test_the_end_of_a_stream(triton: FakeTriton, collect: Collect, script: Script, heard: int, text: str) -> None:
    triton.script = script
    chunks, error = collect(triton.url)
    assert (len(chunks), str(error)) == (heard, text.replace("URL", triton.url))


def test_the_own_machine_is_not_asked_through_a_proxy(
    triton: FakeTriton, collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        chunks, error = collect(triton.url.replace("127.0.0.1", host))
        assert (len(chunks), error) == (3, None)
    assert [is_loopback(f"{host}:1") for host in ("[::1]", "127.8.0.1", "10.0.0.1", "example.org")] == [1, 1, 0, 0]


def test_no_server_at_the_url(collect: Collect) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused, and the port stays taken
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        _, error = collect(url)
    assert isinstance(error, Unavailable)
    assert url in error.message
    assert "refused" in error.message


def test_a_response_that_is_not_speech(triton: FakeTriton, collect: Collect) -> None:
    response = service_pb2.ModelStreamInferResponse()
    response.infer_response.outputs.add(name="LOGITS", datatype="FP32", shape=[1])
    response.infer_response.raw_output_contents.append(b"\0\0\0\0")
    triton.script = scripted(response)
    _, error = collect(triton.url)
    assert isinstance(error, Internal)
    assert "AUDIO" in error.message


def test_a_server_that_no_longer_answers(triton: FakeTriton, collect: Collect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("misotts_client.transport._GRACE_S", 0.1)
    triton.script = silent
    _, error = collect(triton.url, timeout_ms=100)
    assert isinstance(error, DeadlineExceeded)
    assert triton.url in error.message
    assert triton.cancelled.wait(5)


def test_a_message_larger_than_grpcs_default(triton: FakeTriton, collect: Collect) -> None:
    triton.script = scripted(answer(samples=2_000_000, finish="eos"))
    chunks, error = collect(triton.url)
    assert error is None
    assert len(chunks[0].audio) == 2_000_000


def speak_blocking(url: str) -> Speech:
    with Client(url) as client:
        return client.speak("hello")


async def speak_async(url: str) -> Speech:
    async with AsyncClient(url) as client:
        return await client.speak("hello")


@pytest.mark.parametrize("speak", [speak_blocking, lambda url: asyncio.run(speak_async(url))])
def test_speak(triton: FakeTriton, speak: Callable[[str], Speech]) -> None:
    def slow(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield answer(samples=0)  # no audio yet: the clock continues
        threading.Event().wait(0.05)
        yield answer(samples=1920, level=0.003)
        threading.Event().wait(0.05)
        yield answer(samples=2880, frame=1, finish="length")

    triton.script = slow
    speech = speak(triton.url)
    assert speech.audio.shape == (4800,)
    assert (speech.seed, speech.finish, speech.audio_s) == (7, "length", 0.2)
    assert speech.ttfa_s is not None
    assert 0.05 <= speech.ttfa_s < speech.total_s - 0.04
    assert speech.rtf == speech.total_s / 0.2
    assert speech.leading_silence_s == 0.08
    assert speech.audible_ttfa_s == speech.ttfa_s + 0.08
    assert inputs(triton.requests[0])["LEAD_MS"] == 0, "no listener waits for the end of it"


# Cancelling, blocking


def test_leaving_the_block_cancels(triton: FakeTriton) -> None:
    triton.script = endless
    with Client(triton.url) as client:
        with client.stream("hello") as stream:
            assert next(stream).frame == 0
        assert triton.cancelled.wait(5)


def test_cancelling_from_another_thread(triton: FakeTriton) -> None:
    triton.script = silent
    with Client(triton.url) as client:
        stream = client.stream("hello")
        threading.Timer(0.05, stream.cancel).start()
        with pytest.raises(Cancelled):
            next(stream)
        assert triton.cancelled.wait(5)
        assert list(stream) == []


def test_a_dropped_stream_is_cancelled(triton: FakeTriton) -> None:
    triton.script = endless
    with Client(triton.url) as client:
        for _ in client.stream("hello"):
            break
        gc.collect()
        assert triton.cancelled.wait(5)


def test_closing_the_client_cancels_its_streams_at_once(triton: FakeTriton) -> None:
    triton.script = endless
    client = Client(triton.url)
    stream = client.stream("hello")
    next(stream)
    client.close()
    assert triton.cancelled.wait(5)
    with pytest.raises(Cancelled):
        list(stream)


def test_an_interrupt_while_speaking_cancels(triton: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(recording: Any, chunk: Chunk) -> None:
        raise KeyboardInterrupt

    triton.script = endless
    monkeypatch.setattr("misotts_client.speech.Recording.add", interrupt)
    with Client(triton.url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.speak("hello")
        assert triton.cancelled.wait(5)


# Cancelling, asyncio


async def cancelled(triton: FakeTriton) -> bool:
    return await asyncio.to_thread(triton.cancelled.wait, 5)


async def has_request(triton: FakeTriton) -> None:
    while not triton.requests:
        await asyncio.sleep(0.01)


async def test_leaving_the_async_block_cancels(triton: FakeTriton) -> None:
    triton.script = endless
    async with AsyncClient(triton.url) as client:
        async with client.stream("hello") as stream:
            assert (await anext(stream)).frame == 0
        assert await cancelled(triton)


@pytest.mark.parametrize("script", [endless, silent])
async def test_cancelling_the_task_cancels(triton: FakeTriton, script: Script) -> None:
    triton.script = script
    async with AsyncClient(triton.url) as client:
        task = asyncio.create_task(client.speak("hello"))
        await has_request(triton)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await cancelled(triton)


async def test_cancelling_the_async_stream_does_not_cancel_the_task(triton: FakeTriton) -> None:
    triton.script = silent
    async with AsyncClient(triton.url) as client:
        stream = client.stream("hello")
        asyncio.get_running_loop().call_later(0.05, stream.cancel)
        with pytest.raises(Cancelled):
            await anext(stream)
        assert await cancelled(triton)


async def test_closing_the_async_client_does_not_cancel_the_task(triton: FakeTriton) -> None:
    triton.script = silent
    client = AsyncClient(triton.url)
    task = asyncio.create_task(client.speak("hello"))
    await has_request(triton)
    await client.close()
    with pytest.raises(Cancelled):
        await task
    assert not task.cancelled()
    assert await cancelled(triton)


async def test_a_dropped_async_stream_is_cancelled(triton: FakeTriton) -> None:
    triton.script = endless
    async with AsyncClient(triton.url) as client:
        async for _ in client.stream("hello"):
            break
        gc.collect()
        assert await cancelled(triton)


# Many at once


def echo(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    """An utterance under the request's seed."""
    names = [tensor.name for tensor in request.inputs]
    seed = int.from_bytes(request.raw_input_contents[names.index("SEED")], "little")
    return utterance(20, seed=seed, samples=10)


def is_whole(chunks: list[Chunk], seed: int) -> bool:
    return [(chunk.frame, chunk.seed) for chunk in chunks] == [(frame, seed) for frame in range(20)]


def test_many_threads_share_a_client(triton: FakeTriton) -> None:
    triton.script = echo
    with Client(triton.url) as client, ThreadPoolExecutor(40) as pool:
        streams = pool.map(lambda seed: list(client.stream("hello", seed=seed)), range(40))
        assert all(is_whole(chunks, seed) for seed, chunks in enumerate(streams))


async def test_many_tasks_share_a_client(triton: FakeTriton) -> None:
    triton.script = echo
    async with AsyncClient(triton.url) as client:

        async def one(seed: int) -> bool:
            return is_whole([chunk async for chunk in client.stream("hello", seed=seed)], seed)

        assert all(await asyncio.gather(*[one(seed) for seed in range(40)]))
