"""MP3 by LAME, FLAC and Opus by libsndfile.

Every encoder gives one stream: no header, tag or count follows the first bytes, so a player that has begun goes on.
"""

import lameenc
import soundfile

from misotts_gateway.audio.pcm import Audio, to_int16

MP3_KBPS = 64
"""Constant rate: speech of one channel is transparent, and a player can estimate the length."""


class Mp3Encoder:
    """MP3 frames without ID3 and Xing headers.

    Args:
        rate: Hz.
    """

    def __init__(self, rate: int) -> None:
        self._lame = lameenc.Encoder()
        self._lame.silence()
        self._lame.set_in_sample_rate(rate)
        self._lame.set_out_sample_rate(rate)
        self._lame.set_channels(1)
        self._lame.set_bit_rate(MP3_KBPS)
        self._lame.set_quality(5)

    def encode(self, audio: Audio) -> bytes:
        return bytes(self._lame.encode(to_int16(audio).tobytes()))

    def finish(self) -> bytes:
        return bytes(self._lame.flush())


class FlacEncoder:
    """FLAC of 16 bits whose header leaves the length open.

    Args:
        rate: Hz.
    """

    def __init__(self, rate: int) -> None:
        self._sink = _Sink()
        self._file = soundfile.SoundFile(self._sink, "w", rate, 1, "PCM_16", format="FLAC")

    def encode(self, audio: Audio) -> bytes:
        self._file.write(to_int16(audio))
        return self._sink.take()

    def finish(self) -> bytes:
        self._file.close()
        return self._sink.take()


class OpusEncoder:
    """Opus in Ogg, in pages of 20 ms.

    Args:
        rate: Hz; one of those that Opus knows.
    """

    def __init__(self, rate: int) -> None:
        self._sink = _Sink()
        self._file = soundfile.SoundFile(self._sink, "w", rate, 1, "OPUS", format="OGG")
        _set_ogg_page_latency(self._file, 20.0)

    def encode(self, audio: Audio) -> bytes:
        self._file.write(audio)
        return self._sink.take()

    def finish(self) -> bytes:
        self._file.close()
        return self._sink.take()


class _Sink:
    """A file that libsndfile writes forwards. At the end libsndfile goes back to fill in the header, which has been
    sent by then: what it writes there is dropped."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._end = 0
        self._position = 0

    def write(self, data: bytes) -> int:
        if self._position == self._end:
            self._bytes += data
            self._end += len(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._end)[whence]
        return self._position

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


def _set_ogg_page_latency(file: soundfile.SoundFile, latency_ms: float) -> None:
    """Ask libsndfile for short pages; its default of 1 s would hold back the first second of speech.

    soundfile has no public name for the command SFC_SET_OGG_PAGE_LATENCY_MS.

    Raises:
        RuntimeError: libsndfile does not know the command.
    """
    value = soundfile._ffi.new("double *", latency_ms)
    if soundfile._snd.sf_command(file._file, 0x1302, value, soundfile._ffi.sizeof("double")):
        raise RuntimeError(f"libsndfile {soundfile.__libsndfile_version__} cannot set the length of Ogg pages")
