"""Other sample rates than the model's 24 kHz."""

import numpy as np
import soxr

from misotts_client.contract import SAMPLE_RATE
from misotts_gateway.audio.pcm import Audio


class Resampler:
    """Resamples one stream from 24 kHz, chunk by chunk.

    The filter has a linear phase and its delay is removed: sample n of the output is the audio at n / rate seconds, for
    any division into chunks. The filter needs audio from after that moment, so up to 80 ms of the audio that has been
    put in come out with the next call.

    Args:
        rate: of the output, in Hz.
    """

    def __init__(self, rate: int) -> None:
        self._stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(SAMPLE_RATE, rate, 1, quality="HQ")

    def resample(self, audio: Audio, last: bool = False) -> Audio:
        """Return the audio that is complete [samples] float32; with `last`, all that remains."""
        if self._stream is None:
            return audio
        return np.asarray(self._stream.resample_chunk(audio, last=last), np.float32)
