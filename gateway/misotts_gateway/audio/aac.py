"""AAC by PyAV, which is an extra: its wheel carries FFmpeg with libraries under the GPL."""

import importlib.util
import io
from typing import Any

from misotts_gateway.audio.pcm import Audio, to_int16

AVAILABLE = importlib.util.find_spec("av") is not None


class AacEncoder:
    """AAC-LC in ADTS frames.

    Args:
        rate: Hz.
    """

    def __init__(self, rate: int) -> None:
        import av

        self._av = av
        self._sink = io.BytesIO()
        self._container = av.open(self._sink, "w", format="adts", options={"flush_packets": "1"})
        self._stream = self._container.add_stream("aac", rate=rate, layout="mono")
        self._stream.bit_rate = 64_000
        self._rate = rate
        self._stream.codec_context.open()
        frame_size = self._stream.codec_context.frame_size
        self._frames = av.AudioResampler(format="fltp", layout="mono", rate=rate, frame_size=frame_size)

    def encode(self, audio: Audio) -> bytes:
        if len(audio):
            frame = self._av.AudioFrame.from_ndarray(to_int16(audio)[None], format="s16", layout="mono")
            frame.sample_rate = self._rate
            self._mux(frame)
        return self._taken()

    def finish(self) -> bytes:
        self._mux(None)
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._taken()

    def _mux(self, frame: Any) -> None:
        for piece in self._frames.resample(frame):
            self._container.mux(self._stream.encode(piece))

    def _taken(self) -> bytes:
        taken = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return taken
