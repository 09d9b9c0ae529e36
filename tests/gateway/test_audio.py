"""Formats: every encoder's stream, decoded by FFmpeg (PyAV) and libsndfile, against the audio that was put in."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from misotts_client.contract import SAMPLE_RATE
from misotts_gateway.audio.formats import FORMATS, StreamEncoder
from misotts_gateway.audio.pcm import ALAW, MULAW, wav_header
from tests.support.decoded import PADDING, RAW, assert_one_file, decode, resampled

PAIRS = [(name, rate) for name, format in FORMATS.items() for rate in format.rates]


def speech_like(seconds: float) -> npt.NDArray[np.float32]:
    """Return noise of 150 to 3,000 Hz with a syllable's rhythm, up to its very end."""
    count = int(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(5).standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(np.where((frequency > 150) & (frequency < 3_000), spectrum, 0), count)
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * np.arange(count) / SAMPLE_RATE)
    return (0.15 * noise / noise.std() * envelope).astype(np.float32)


def encode(name: str, rate: int, audio: npt.NDArray[np.float32], cuts: Sequence[int] = ()) -> list[bytes]:
    """Return what an encoder gives for the audio in pieces of 80 ms, or cut at `cuts`."""
    encoder = StreamEncoder(FORMATS[name], rate)
    pieces = np.split(audio, cuts or range(1_920, len(audio), 1_920))
    return [*(encoder.encode(piece) for piece in pieces), encoder.finish()]


@pytest.mark.parametrize(("name", "rate"), PAIRS)
def test_the_whole_audio_is_in_the_stream(name: str, rate: int) -> None:
    audio = speech_like(1.2)
    decoded, decoded_rate = decode(name, rate, b"".join(encode(name, rate, audio)))
    wanted = resampled(audio, decoded_rate)
    extra = len(decoded) - len(wanted)
    assert 0 <= extra <= PADDING.get(name, 0)
    # Where the audio lies in the decoded stream, by correlation; the last 200 ms are there.
    offset = int(np.argmax(np.correlate(decoded.astype(float), wanted, "valid"))) if extra else 0
    tail = decoded_rate // 5
    heard = decoded[offset : offset + len(wanted)]
    assert np.corrcoef(heard[-tail:], wanted[-tail:])[0, 1] > 0.95
    assert np.corrcoef(heard[:tail], wanted[:tail])[0, 1] > 0.95


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_is_one_file(name: str) -> None:
    assert_one_file(name, b"".join(encode(name, FORMATS[name].default_rate, speech_like(3))), seconds=3)


@pytest.mark.parametrize("name", ["flac", "wav"])
def test_lossless_formats_lose_only_the_rounding(name: str) -> None:
    audio = speech_like(1)
    decoded, _ = decode(name, SAMPLE_RATE, b"".join(encode(name, SAMPLE_RATE, audio)))
    assert len(decoded) == len(audio)
    assert np.abs(decoded - audio).max() <= 1 / 32_767


def test_libsndfile_reads_a_wav_of_unknown_length() -> None:
    audio = speech_like(1)
    read, rate = soundfile.read(io.BytesIO(b"".join(encode("wav", 16_000, audio))))
    assert (len(read), rate) == (16_000, 16_000)


@pytest.mark.parametrize(("name", "rate"), [pair for pair in PAIRS if pair[0] in RAW])
def test_raw_audio_is_whole_samples_and_one_unbroken_tone(name: str, rate: int) -> None:
    seconds, hertz = 1.5, 440
    tone = (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)
    width = 2 if name == "pcm" else 1
    pieces = encode(name, rate, tone, cuts=[0, 17, 1_900, 1_920, 9_000, 9_001, 20_000])
    assert all(len(piece) % width == 0 for piece in pieces)
    samples, _ = decode(name, rate, b"".join(pieces))
    assert len(samples) == round(seconds * rate)
    # Sample n is the tone at n / rate seconds: no delay, whatever the pieces. 10 ms at each end are the filter's.
    wanted = 0.5 * np.sin(2 * np.pi * hertz * np.arange(len(samples)) / rate)
    window = rate // 100
    error = (samples - wanted)[window : -window or None]
    windows = error[: len(error) // window * window].reshape(-1, window)
    worst_db = 20 * np.log10(np.sqrt((windows**2).mean(axis=1)).max() / (0.5 / np.sqrt(2)))
    assert worst_db < (-50 if name == "pcm" else -30)


def test_resampling_leaves_no_alias() -> None:
    # 5 kHz cannot be told at 8 kHz: what is left of it would be heard at 3 kHz.
    tone = (0.5 * np.sin(2 * np.pi * 5_000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    samples, _ = decode("pcm", 8_000, b"".join(encode("pcm", 8_000, tone)))
    assert np.abs(samples[400:-400]).max() <= 1 / 32_768


@pytest.mark.filterwarnings("ignore:'audioop' is deprecated")
def test_g711_is_the_standard_librarys_for_every_sample() -> None:
    audioop = pytest.importorskip("audioop")
    samples = np.arange(65_536, dtype=np.uint16).tobytes()
    assert audioop.lin2ulaw(samples, 2) == MULAW.tobytes()
    assert audioop.lin2alaw(samples, 2) == ALAW.tobytes()


def test_loud_audio_is_clipped() -> None:
    audio = np.array([2, 1, -1, -2], np.float32)
    assert b"".join(encode("pcm", SAMPLE_RATE, audio)) == np.array([32_767, 32_767, -32_767, -32_767], "<i2").tobytes()


def test_a_wav_header() -> None:
    nothing = np.zeros(0, np.float32)
    assert b"".join(encode("wav", SAMPLE_RATE, nothing)) == wav_header(SAMPLE_RATE)
    assert wav_header(SAMPLE_RATE, 5)[40:] == b"\x0a\x00\x00\x00"
