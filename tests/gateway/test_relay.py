"""The gateway before a stand-in: what passes, what is rewritten, what is refused and how."""

import queue
import re
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_client
from tritonclient.grpc import service_pb2, service_pb2_grpc

from misotts_client import Client, Internal, InvalidArgument, Unavailable
from misotts_client.request import SpeechRequest
from misotts_client.transport import infer_request
from tests.support.fake_triton import FakeTriton, answer, endless, refusal, utterance
from tests.support.gateway import RunningGateway
from tests.support.http import request
from tests.support.waiting import wait_until

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
HELLO = infer_request(SpeechRequest("Hello.", seed=5)).SerializeToString()


def test_an_utterance_passes_unchanged_and_nothing_of_the_request_but_its_meaning(
    client: Client, triton: FakeTriton
) -> None:
    chunks = list(client.stream("Hello.", seed=5))
    assert [chunk.frame for chunk in chunks] == [0, 1, 2]
    assert all((chunk.audio == 0.5).all() for chunk in chunks)
    assert chunks[-1].finish == "eos"
    (request,) = triton.requests
    assert [each.name for each in request.inputs] == ["TEXT", "SEED", "TICKET"]
    assert not {"x-request-id", "authorization", "triton_grpc_error"} & set(triton.metadata)


def infer(gateway: RunningGateway, *messages: bytes, metadata: Any = (), close: bool = True) -> tuple[Any, list[Any]]:
    """Send messages on one call; return the call, which has ended, and the responses before its end."""
    keep_open: queue.SimpleQueue[None] = queue.SimpleQueue()

    def send() -> Iterator[bytes]:
        yield from messages
        if not close:
            keep_open.get()

    with grpc.insecure_channel(gateway.url) as channel:
        call = channel.stream_stream(PATH)(send(), metadata=metadata, timeout=20)
        responses = []
        try:
            for data in call:
                responses.append(service_pb2.ModelStreamInferResponse.FromString(data))
                if not close and responses[-1].error_message:
                    call.cancel()
        except grpc.RpcError:
            pass
        keep_open.put(None)
        return call, responses


BAD = infer_request(SpeechRequest("Hello.", top_k=0))
BAD.id = "seven"


def test_a_refusal_before_the_first_chunk_ends_the_call_of_a_caller_that_has_closed_its_side(
    gateway: RunningGateway, triton: FakeTriton
) -> None:
    for metadata, close in (((), True), ((("triton_grpc_error", "true"),), False)):
        call, responses = infer(gateway, BAD.SerializeToString(), metadata=metadata, close=close)
        assert responses == []
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert call.details().startswith("INVALID_ARGUMENT: TOP_K: must be 1 to")
        assert call.initial_metadata() == ()
        assert re.fullmatch("[0-9a-f]{16}", dict(call.trailing_metadata())["x-request-id"])


def test_a_refusal_is_in_the_stream_where_the_caller_may_send_more(gateway: RunningGateway, triton: FakeTriton) -> None:
    _, (response,) = infer(gateway, BAD.SerializeToString(), close=False)
    assert response.error_message.startswith("INVALID_ARGUMENT: TOP_K: ")
    assert response.infer_response.id == "seven"
    call, responses = infer(gateway, HELLO, BAD.SerializeToString(), HELLO)
    assert call.code() is grpc.StatusCode.OK
    assert sorted(response.error_message[:16] for response in responses) == [""] * 6 + ["INVALID_ARGUMENT"]


def test_the_time_to_try_again_stands_in_the_status(gateway: RunningGateway, triton: FakeTriton) -> None:
    triton.script = lambda *_: iter([refusal("in ensemble 'misotts', UNAVAILABLE: too many wait; try again in 2 s")])
    call, _ = infer(gateway, HELLO, metadata=(("x-request-id", "mine-1"),))
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert call.details() == "UNAVAILABLE: too many wait; try again in 2 s"
    assert dict(call.trailing_metadata()) == {"x-request-id": "mine-1", "grpc-retry-pushback-ms": "2000"}


def test_the_request_id_is_in_the_answer(gateway: RunningGateway, triton: FakeTriton) -> None:
    for given, expected in (("mine-1", "mine-1"), ("no spaces", "[0-9a-f]{16}"), ("x" * 129, "[0-9a-f]{16}")):
        call, _ = infer(gateway, HELLO, metadata=(("x-request-id", given),))
        assert re.fullmatch(expected, dict(call.initial_metadata())["x-request-id"])


INNER = [
    "in ensemble 'misotts', INTERNAL: the prompt stage failed",
    "Stub process 'decode_0_0' is not healthy.",
    "in ensemble 'misotts', unexpected input 'TICKET' for 'prompt'",
]


def test_an_inner_error_names_nothing_of_the_inside(client: Client, triton: FakeTriton) -> None:
    for text, kind in zip(INNER, (Internal, Unavailable, Internal), strict=True):
        triton.script = lambda *_, text=text: iter([answer(), refusal(text)])
        with pytest.raises(kind, match="the server") as caught:
            client.speak("Hello.")
        assert not re.search("decode|ensemble|TICKET|prompt", str(caught.value))


def test_a_stream_that_ends_early_is_an_error(client: Client, triton: FakeTriton) -> None:
    triton.script = lambda *_: iter([*utterance(3)][:2])
    with pytest.raises(Unavailable, match="before the end of speech"):
        client.speak("Hello.")


def test_cancelling_reaches_the_server_behind(client: Client, triton: FakeTriton) -> None:
    triton.script = endless
    with client.stream("Hello.") as stream:
        next(stream)
    assert triton.cancelled.wait(1)


def test_an_address_has_a_largest_number_of_streams(
    gateway: RunningGateway, client: Client, triton: FakeTriton
) -> None:
    triton.script = endless
    refused = 'misotts_gateway_refused_total{reason="streams_per_address"}'
    before = metric(gateway, refused)
    streams = [client.stream("Hello.") for _ in range(40)]
    for stream in streams:
        next(stream)
    with pytest.raises(Unavailable, match=r"127.0.0.1 has 40 streams.*try again in 1 s") as caught:
        client.speak("Hello.")
    assert caught.value.retry_after_s == 1
    for stream in streams:
        stream.cancel()
    wait_until(lambda: metric(gateway, "misotts_gateway_streams") == 0)
    assert metric(gateway, refused) == before + 1
    triton.script = lambda *_: utterance(1)
    assert client.speak("Hello.").finish == "eos"


def metric(gateway: RunningGateway, name: str) -> float:
    """Return a figure of a gateway; 0 if it has none of this name yet."""
    _, _, behind = gateway.metrics().partition(f"\n{name} ")
    return float(behind.split()[0]) if behind else 0.0


def test_tritons_own_clients_work(gateway: RunningGateway, triton: FakeTriton) -> None:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client = triton_client.InferenceServerClient(gateway.url)
    assert client.is_server_live()
    with pytest.raises(triton_client.InferenceServerException, match="'misotts'"):
        client.get_model_metadata("prompt")
    assert [each.name for each in client.get_model_metadata("misotts").outputs][:2] == ["AUDIO", "FRAME"]
    assert client.get_model_config("misotts").config.model_transaction_policy.decoupled
    text = triton_client.InferInput("TEXT", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"Hello."], np.object_))
    client.start_stream(lambda result, error: answers.put((result, error)))
    for id in ("a", "b"):
        client.async_stream_infer("misotts", [text], request_id=id, enable_empty_final_response=True)
    results = [answers.get(timeout=10) for _ in range(6)]
    client.stop_stream()
    assert all(error is None for _, error in results)
    assert sorted(each.id for each in triton.requests) == ["a", "b"]
    assert triton.requests[0].parameters["triton_enable_empty_final_response"].bool_param
    with pytest.raises(triton_client.InferenceServerException, match="ModelStreamInfer"):
        client.infer("misotts", [text])
    client.close()


def test_what_is_not_served_is_not_there(gateway: RunningGateway) -> None:
    with grpc.insecure_channel(gateway.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.SystemSharedMemoryStatus(service_pb2.SystemSharedMemoryStatusRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_compressed_or_oversized_request_is_refused_unread(gateway: RunningGateway, triton: FakeTriton) -> None:
    with grpc.insecure_channel(gateway.url, options=[("grpc.max_send_message_length", -1)]) as channel:
        for data, compression, code in (
            (bytes(10**7), grpc.Compression.Gzip, grpc.StatusCode.UNIMPLEMENTED),
            (bytes(17 * 2**20), None, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(channel.stream_stream(PATH)(iter([data]), compression=compression, timeout=10))
            assert caught.value.code() is code
    assert triton.requests == []


def test_the_operators_port(gateway: RunningGateway) -> None:
    for path, status in (("/live", 200), ("/live/?x=1", 200), ("/ready?a=b", 503), ("/metrics", 200), ("/x", 404)):
        for method in ("GET", "HEAD"):
            given = request(gateway.ready_port, method, path)
            assert given.status == status, path
            assert bool(given.body) == (method == "GET")
    assert request(gateway.ready_port, "POST", "/live").status == 405


def test_a_request_that_is_wrong_is_the_callers(client: Client) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.speak("Hello.", temperature=3.0)
    assert (caught.value.field, caught.value.message) == ("TEMPERATURE", "must be 0 to 2, got 3")
