"""The command `say`."""

import os
import pty
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from misotts_client.say import say
from tests.support.fake_triton import FakeTriton, answer, endless, refusal, utterance

pytestmark = pytest.mark.timeout(20)

COMMAND = [sys.executable, "-c", "from misotts_client.say import main; main()"]


def invoke(out: Path, url: str, *options: str) -> Result:
    app = typer.Typer()
    app.command()(say)
    return CliRunner().invoke(app, ["hello", "-o", str(out), "--url", url, *options])


def read(path: Path) -> np.ndarray:
    """int16 [samples] of a WAV file of the one form that is written."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def report(text: str) -> dict[str, str]:
    """Return the lines of the final report by name."""
    lines = [line.rsplit("  ", 1) for line in text.splitlines()[1:]]
    return {name.strip(): value for name, value in lines}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.wav"


def test_a_wav_file_and_a_report(triton: FakeTriton, out: Path) -> None:
    triton.script = lambda request, context: utterance(25)
    result = invoke(out, triton.url, "--voice", "anna", "--seed", "7", "--max-audio-ms", "80")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read(out), np.full(25 * 1920, round(0.5 * 32767), np.int16))
    printed = report(result.stderr)
    assert printed["audible after"] == printed["time to first audio"]
    assert printed["leading silence"] == "0 ms"
    assert float(printed["real-time factor"]) > 0
    assert (printed["audio"], printed["seed"], printed["finish"]) == ("2.00 s", "7", "eos")
    assert [tensor.name for tensor in triton.requests[0].inputs] == ["TEXT", "VOICE", "SEED", "MAX_AUDIO_MS", "LEAD_MS"]


def test_a_turn_of_a_conversation(triton: FakeTriton, out: Path) -> None:
    triton.script = lambda request, context: utterance(3)
    result = invoke(out, triton.url, "--session", "call-7", "--session-heard-ms", "800")
    assert report(result.stderr)["turns before"] == "0"
    names = [tensor.name for tensor in triton.requests[0].inputs]
    assert names == ["TEXT", "LEAD_MS", "SESSION", "SESSION_HEARD_MS"]


def test_the_file_has_a_default_name(triton: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    triton.script = lambda request, context: utterance(3)
    app = typer.Typer()
    app.command()(say)
    assert CliRunner().invoke(app, ["hello", "--url", triton.url]).exit_code == 0
    assert len(read(tmp_path / "speech.wav")) == 3 * 1920


def test_loud_audio_is_clipped(triton: FakeTriton, out: Path) -> None:
    triton.script = lambda request, context: iter([answer(2, level=1.5), answer(2, level=-1.5, finish="eos")])
    assert invoke(out, triton.url).exit_code == 0
    assert read(out).tolist() == [32767, 32767, -32767, -32767]


@pytest.mark.parametrize(("code", "status"), [("INVALID_ARGUMENT: TEXT", 2), ("NOT_FOUND", 1), ("UNAVAILABLE", 1)])
def test_a_refusal_is_one_line_and_overwrites_nothing(triton: FakeTriton, out: Path, code: str, status: int) -> None:
    out.write_text("precious")
    triton.script = lambda request, context: iter([refusal(f"in ensemble 'misotts', {code}: not\n  [this] way")])
    result = invoke(out, triton.url)
    assert result.exit_code == status
    assert result.stderr == f"error: {code}: not [this] way\n"
    assert result.stdout == ""
    assert out.read_text() == "precious"


def test_an_error_in_the_middle_of_speech_keeps_the_audio_so_far(triton: FakeTriton, out: Path) -> None:
    triton.script = lambda request, context: iter([answer(), answer(0, 1, finish="error: INTERNAL: decode failed")])
    result = invoke(out, triton.url)
    assert (result.exit_code, result.stderr) == (1, "error: INTERNAL: decode failed\n")
    assert len(read(out)) == 1920


def test_a_value_that_no_tensor_can_hold(out: Path) -> None:
    result = invoke(out, "127.0.0.1:1", "--speaker", str(2**40))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: INVALID_ARGUMENT: SPEAKER: ")


def test_a_file_that_cannot_be_written_cancels_the_stream(triton: FakeTriton, tmp_path: Path) -> None:
    triton.script = endless
    command = [*COMMAND, "hello", "-o", str(tmp_path / "no" / "out.wav"), "--url", triton.url]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "No such file or directory" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert triton.cancelled.wait(5)


def test_an_interrupt_cancels_the_stream_and_keeps_the_audio_so_far(triton: FakeTriton, out: Path) -> None:
    triton.script = endless
    command = [*COMMAND, "hello", "-o", str(out), "--url", triton.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not out.exists() or out.stat().st_size < 10_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert triton.cancelled.wait(5)
    samples = read(out)
    assert len(samples) >= 1920
    assert set(samples.tolist()) == {round(0.5 * 32767)}
    printed = report(stderr)
    assert printed["finish"] == "cancelled"
    # The signal may have arrived between counting a chunk and writing it.
    assert float(printed["audio"].removesuffix(" s")) == pytest.approx(len(samples) / 24_000, abs=0.09)
    assert stdout == ""


def test_progress_is_for_terminals_only(triton: FakeTriton, out: Path) -> None:
    triton.script = lambda request, context: utterance(25)
    command = [*COMMAND, "hello", "-o", str(out), "--url", triton.url]
    piped = subprocess.run(command, capture_output=True, env={**os.environ, "FORCE_COLOR": "1"}, check=True)
    assert piped.stdout == b""
    assert b"\x1b" not in piped.stderr
    assert b"\r" not in piped.stderr

    ours, theirs = pty.openpty()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"}, check=True)
    shown = os.read(ours, 100_000)
    os.close(ours)
    os.close(theirs)
    assert b"2.0 s of audio" in shown


SAMPLES = np.full(25 * 1920, round(0.5 * 32767), "<i2").tobytes()


def heard(wav: bytes) -> bytes:
    """Return the samples of a WAV stream that states no length."""
    assert (wav[:4], wav[4:8], wav[8:16], wav[36:40], wav[40:44]) == (
        b"RIFF",
        b"\xff" * 4,
        b"WAVEfmt ",
        b"data",
        b"\xff" * 4,
    )
    return wav[44:]


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/proc/self/fd/1"])
def test_speech_goes_into_a_pipe_as_it_comes(triton: FakeTriton, output: str) -> None:
    triton.script = lambda request, context: utterance(25)
    command = [*COMMAND, "hello", "-o", output, "--url", triton.url]
    piped = subprocess.run(command, capture_output=True, check=True, cwd="/")
    assert heard(piped.stdout) == SAMPLES
    assert b"real-time factor" in piped.stderr


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_standard_output_may_be_a_file(triton: FakeTriton, output: str, tmp_path: Path) -> None:
    triton.script = lambda request, context: utterance(25)
    with (tmp_path / "speech.wav").open("wb") as file:
        subprocess.run([*COMMAND, "hello", "-o", output, "--url", triton.url], stdout=file, check=True)
    assert (tmp_path / "speech.wav").read_bytes()[44:] == SAMPLES


def test_speech_goes_into_a_named_pipe(triton: FakeTriton, tmp_path: Path) -> None:
    triton.script = lambda request, context: utterance(25)
    os.mkfifo(tmp_path / "pipe")
    process = subprocess.Popen([*COMMAND, "hello", "-o", str(tmp_path / "pipe"), "--url", triton.url])
    assert heard((tmp_path / "pipe").read_bytes()) == SAMPLES
    assert process.wait(10) == 0


def test_the_first_chunk_is_heard_before_the_last_one_is_made(triton: FakeTriton) -> None:
    triton.script = endless
    command = [*COMMAND, "hello", "-o", "-", "--url", triton.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(44 + 2 * 1920)) == 44 + 2 * 1920
        process.stdout.close()  # as a player that is ended
        try:
            assert process.wait(10) == 1
            assert process.stderr is not None
            assert b"Broken pipe" in process.stderr.read()
        finally:
            process.kill()
    assert triton.cancelled.wait(5)
