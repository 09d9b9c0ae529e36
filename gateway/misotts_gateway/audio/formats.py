"""The table of formats, and an encoder for a stream of audio."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from misotts_client.contract import SAMPLE_RATE
from misotts_gateway.audio import aac
from misotts_gateway.audio.compressed import FlacEncoder, Mp3Encoder, OpusEncoder
from misotts_gateway.audio.pcm import ALAW, MULAW, Audio, FloatEncoder, G711Encoder, PcmEncoder, WavEncoder
from misotts_gateway.audio.resampler import Resampler

_NOTHING: Audio = np.zeros(0, np.float32)

RATES = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)
"""Hz; what a format offers unless its codec knows fewer."""


class Encoder(Protocol):
    """Encodes one stream. The results end to end are one file."""

    def encode(self, audio: Audio) -> bytes:
        """Return what is complete after audio [samples] float32, -1..1, at the encoder's rate; perhaps nothing."""

    def finish(self) -> bytes:
        """Return what remains; the encoder is not used again."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        content_type: media type of its bytes.
        open: makes an encoder for a rate in Hz.
        rates: Hz; the rates that it offers.
        default_rate: Hz.
        cheap: True if encoding a chunk takes less time than handing it to another thread.
        extra: the extra of misotts-gateway that is missing here; empty if the format can be used.
    """

    content_type: str
    open: Callable[[int], Encoder]
    rates: tuple[int, ...] = RATES
    default_rate: int = SAMPLE_RATE
    cheap: bool = False
    extra: str = ""


FORMATS: Mapping[str, Format] = {
    "mp3": Format("audio/mpeg", Mp3Encoder),
    "opus": Format("audio/ogg", OpusEncoder, rates=(8_000, 16_000, 24_000, 48_000)),
    "aac": Format("audio/aac", aac.AacEncoder, extra="" if aac.AVAILABLE else "codecs"),
    "flac": Format("audio/flac", FlacEncoder),
    "wav": Format("audio/wav", WavEncoder, cheap=True),
    "pcm": Format("audio/pcm", lambda _: PcmEncoder(), cheap=True),
    "mulaw": Format("audio/basic", lambda _: G711Encoder(MULAW), rates=(8_000,), default_rate=8_000, cheap=True),
    "alaw": Format("audio/x-alaw", lambda _: G711Encoder(ALAW), rates=(8_000,), default_rate=8_000, cheap=True),
}

RAW: Mapping[str, Format] = {
    "pcm_s16le": FORMATS["pcm"],
    "pcm_f32le": Format("audio/pcm", lambda _: FloatEncoder(), cheap=True),
    "pcm_mulaw": replace(FORMATS["mulaw"], rates=RATES),
    "pcm_alaw": replace(FORMATS["alaw"], rates=RATES),
}
"""Samples without a header, by the names that telephony and voice agents use, at all rates."""


class StreamEncoder:
    """Resamples and encodes one stream of the model's audio.

    Args:
        format: what to make.
        rate: Hz; one of the format's.
    """

    def __init__(self, format: Format, rate: int) -> None:
        self._resampler = Resampler(rate)
        self._encoder = format.open(rate)

    def encode(self, audio: Audio) -> bytes:
        """Return what is complete after audio [samples] float32, 24 kHz, -1..1; perhaps nothing."""
        return self._encoder.encode(self._resampler.resample(audio))

    def finish(self) -> bytes:
        """Return what remains; the encoder is not used again."""
        return self._encoder.encode(self._resampler.resample(_NOTHING, last=True)) + self._encoder.finish()
