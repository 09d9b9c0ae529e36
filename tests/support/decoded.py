"""Encoded streams, as FFmpeg decodes them, and what makes them one file."""

import io
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from misotts_client.contract import SAMPLE_RATE

RAW = {"pcm": "pcm_s16le", "mulaw": "pcm_mulaw", "alaw": "pcm_alaw"}
"""FFmpeg's decoders of formats without a header."""
PADDING = {"mp3": 3 * 1152, "aac": 3 * 1024}
"""Samples by which a decoded stream may be longer than its audio, which a player hears as silence: two frames, and the
padding of the last one."""
BEGINS = {"mp3": b"\xff\xf3", "opus": b"OggS", "aac": b"\xff\xf1", "flac": b"fLaC", "wav": b"RIFF"}


def decode(name: str, rate: int, raw: bytes) -> tuple[npt.NDArray[np.float32], int]:
    """Return the samples of a stream and their rate."""
    if name in RAW:
        context: Any = av.CodecContext.create(RAW[name], "r")
        context.sample_rate, context.layout = rate, "mono"
        frames = context.decode(av.Packet(raw))
    else:
        with av.open(io.BytesIO(raw), "r") as container:
            frames = list(container.decode(audio=0))
    planes = [frame.to_ndarray().reshape(-1) for frame in frames]
    samples = np.concatenate(planes)
    scale = 32_768 if samples.dtype == np.int16 else 1
    return (samples / scale).astype(np.float32), frames[0].sample_rate


def resampled(audio: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float64]:
    """Return the audio at `rate` by Fourier's sum, which has no filter of its own."""
    count = round(len(audio) * rate / SAMPLE_RATE)
    spectrum = np.fft.rfft(audio)
    kept = np.zeros(count // 2 + 1, complex)
    both = min(len(kept), len(spectrum))
    kept[:both] = spectrum[:both]
    return np.fft.irfft(kept, count) * count / len(audio)


def assert_one_file(name: str, raw: bytes, seconds: float) -> None:
    """Assert that a stream at its format's default rate has one beginning, one end and no count of its length."""
    assert raw.startswith(BEGINS.get(name, b""))
    if name in ("wav", "flac"):
        assert raw.count(BEGINS[name]) == 1
    if name == "mp3":
        assert not any(mark in raw for mark in (b"Xing", b"Info", b"ID3"))
    if name == "opus":
        pages = [raw[index + 5] for index in range(len(raw)) if raw.startswith(b"OggS", index)]
        assert [bool(flags & 2) for flags in pages] == [True] + [False] * (len(pages) - 1)
        assert [bool(flags & 4) for flags in pages] == [False] * (len(pages) - 1) + [True]
        assert len(pages) > seconds / 0.1
