"""Callers that hear utterances one after the other at the pace of playback, and cost little themselves."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from dataclasses import dataclass

import grpc
from tritonclient.grpc import service_pb2

from misotts.config import SAMPLE_RATE
from misotts_client.request import SpeechRequest
from misotts_client.transport import infer_request
from misotts_gateway.upstream import METHOD

STREAMS_PER_CHANNEL = 50
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
SAMPLE_BYTES = 4


@dataclass(frozen=True)
class Heard:
    """What all callers together heard. Times are in s."""

    messages: int
    """Responses with audio that came in the measured part."""
    audio_s: float
    """Audio in them."""
    first_audio_s: list[float]
    """Time to first audio of every call."""
    late_s: list[float]
    """Silence within each utterance, for a player that begins with its first chunk."""
    errors: list[str]


def hear(url: str, streams: int, utterance_s: float, began: float, seconds: float, connection: object) -> None:
    """Be `streams` callers until `seconds` after `began` (a time of `time.monotonic`); send a `Heard`, which counts
    messages from `began` on. A process of its own runs this."""
    heard = asyncio.run(_hear(url, streams, utterance_s, began, began + seconds))
    assert isinstance(connection, multiprocessing.connection.Connection)
    connection.send(heard)


async def _hear(url: str, streams: int, utterance_s: float, began: float, end: float) -> Heard:
    count = -(-streams // STREAMS_PER_CHANNEL)
    channels = [grpc.aio.insecure_channel(url, options=OPTIONS) for _ in range(count)]
    found = Heard(0, 0.0, [], [], [])
    messages, samples = 0, 0

    async def call(index: int, number: int) -> float:
        """Make one call; return the time at which its playback ends."""
        nonlocal messages, samples
        sent = time.monotonic()
        asked = SpeechRequest("Hello.", max_audio_ms=int(utterance_s * 1000), seed=index * 1000 + number)
        data = bytes(infer_request(asked).SerializeToString())
        played_out = late_s = 0.0
        try:
            async for response in channels[index % count].unary_stream(METHOD)(data):
                now = time.monotonic()
                length = audio_samples(response, found.errors)
                if not length:
                    continue
                if not played_out:
                    found.first_audio_s.append(now - sent)
                    played_out = now
                late_s += max(now - played_out, 0.0)
                played_out = max(played_out, now) + length / SAMPLE_RATE
                if now >= began:
                    messages += 1
                    samples += length
        finally:  # long utterances are cancelled when the measurement ends
            found.late_s.append(late_s)
        return played_out

    async def caller(index: int) -> None:
        await asyncio.sleep(index / streams * min(utterance_s, 2.0))
        number = 0
        while time.monotonic() < end:
            played_out = await call(index, number)
            number += 1
            await asyncio.sleep(max(played_out - time.monotonic(), 0.0))

    tasks = [asyncio.create_task(caller(index)) for index in range(streams)]
    await asyncio.wait(tasks, timeout=end - time.monotonic())
    for task in tasks:
        if task.done() and (error := task.exception()):
            found.errors.append(repr(error))
        task.cancel()
    await asyncio.wait(tasks)
    for channel in channels:
        await channel.close()
    return Heard(messages, samples / SAMPLE_RATE, found.first_audio_s, found.late_s, found.errors)


def audio_samples(response: bytes, errors: list[str]) -> int:
    """Return the number of samples in a serialized response."""
    message = service_pb2.ModelStreamInferResponse.FromString(response)
    if message.error_message:
        errors.append(message.error_message)
    outputs = message.infer_response.outputs
    raw = message.infer_response.raw_output_contents
    return next((len(each) // SAMPLE_BYTES for out, each in zip(outputs, raw, strict=False) if out.name == "AUDIO"), 0)
