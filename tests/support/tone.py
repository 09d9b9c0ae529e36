"""A script of the stand-in for Triton that speaks a tone: 60 ms for every character of the text."""

import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.utils import deserialize_bytes_tensor

from misotts_client.contract import FRAME_SAMPLES, SAMPLE_RATE
from tests.support.fake_triton import FakeTriton, answer

HERTZ = 440.0
SAMPLES_PER_CHARACTER = SAMPLE_RATE * 60 // 1000


def inputs(request: Any) -> dict[str, Any]:
    """Return the inputs of a request by name, texts and numbers as Python has them."""
    raw = zip(request.inputs, request.raw_input_contents, strict=True)
    formats = {"INT32": "<i", "INT64": "<q", "FP32": "<f"}
    return {
        tensor.name: deserialize_bytes_tensor(content)[0].decode()
        if tensor.datatype == "BYTES"
        else struct.unpack(formats[tensor.datatype], content)[0]
        for tensor, content in raw
    }


def samples_of(text: str) -> int:
    """Return the number of samples that a text takes, whole frames."""
    return -(-len(text) * SAMPLES_PER_CHARACTER // FRAME_SAMPLES) * FRAME_SAMPLES


def wave(samples: int, start: int = 0) -> npt.NDArray[np.float32]:
    """Return [samples] of the tone from sample `start` on."""
    phase = 2 * np.pi * HERTZ * np.arange(start, start + samples) / SAMPLE_RATE
    return (0.5 * np.sin(phase)).astype(np.float32)


def pcm(samples: int) -> bytes:
    """Return the beginning of the tone as 16-bit samples."""
    return np.rint(wave(samples) * 32_767).astype("<i2").tobytes()


def spoken(triton: FakeTriton) -> list[str]:
    """Return the texts that have come."""
    return [inputs(each)["TEXT"] for each in triton.requests]


def speak_tone(
    pace_s: float = 0.0, frames_per_chunk: int = 1, first: int | None = None
) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
    """Return a script. It sends a chunk, and the next one `pace_s` later.

    Args:
        first: frames of the first chunk, if it differs.
    """

    def script(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        given = inputs(request)
        longest = given.get("MAX_AUDIO_MS", 160_000) // 80 * FRAME_SAMPLES
        total = min(samples_of(given["TEXT"]), longest)
        start, frames = 0, first or frames_per_chunk
        while start < total and context.is_active():
            count = min(frames * FRAME_SAMPLES, total - start)
            finish = "" if start + count < total else "eos"
            audio = wave(count, start)
            yield answer(frame=start // FRAME_SAMPLES, seed=given.get("SEED", 99), finish=finish, audio=audio)
            start, frames = start + count, frames_per_chunk
            time.sleep(pace_s)

    return script
