"""The command `say`: writes a text as speech to a WAV file, over the network, while the speech is generated."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from misotts_client.client import Client, Stream
from misotts_client.contract import INPUTS, SAMPLE_RATE
from misotts_client.errors import Cancelled, InvalidArgument, MisoError
from misotts_client.request import SpeechRequest
from misotts_client.speech import Chunk, Recording, Speech
from misotts_client.wav import STANDARD_OUTPUT, WavWriter


def _option(name: str) -> Any:
    field = INPUTS[name]
    default = f"; default {field.default_text}" if field.default_text else ""
    return typer.Option(help=f"{field.meaning[:1].upper()}{field.meaning[1:]} ({field.range}{default}).")


def say(
    text: Annotated[str, typer.Argument(help="Text to speak.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="WAV file or pipe to write; - is standard output.")
    ] = Path("speech.wav"),
    url: Annotated[
        str,
        typer.Option(help="Host and gRPC port of the server, behind https:// for TLS; IP addresses may be a list."),
    ] = "localhost:8001",
    api_key: Annotated[
        str | None, typer.Option(envvar="MISOTTS_API_KEY", show_envvar=True, help="Key that the server asks for.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Certificates to trust with https:// (PEM).")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="Further metadata of the call, NAME=VALUE; may be repeated.")
    ] = None,
    voice: Annotated[str | None, _option("VOICE")] = None,
    speaker: Annotated[int | None, _option("SPEAKER")] = None,
    temperature: Annotated[float | None, _option("TEMPERATURE")] = None,
    top_k: Annotated[int | None, _option("TOP_K")] = None,
    seed: Annotated[int | None, _option("SEED")] = None,
    max_audio_ms: Annotated[int | None, _option("MAX_AUDIO_MS")] = None,
    chunk_frames: Annotated[int | None, _option("CHUNK_FRAMES")] = None,
    timeout_ms: Annotated[int | None, _option("TIMEOUT_MS")] = None,
    session: Annotated[str | None, _option("SESSION")] = None,
    session_heard_ms: Annotated[int | None, _option("SESSION_HEARD_MS")] = None,
) -> None:
    """Write TEXT as speech to a WAV file, and a report to stderr. Ctrl-C also stops the utterance at the server; the
    audio so far is kept."""
    request = SpeechRequest(
        text,
        speaker=speaker,
        voice=voice,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        max_audio_ms=max_audio_ms,
        chunk_frames=chunk_frames,
        lead_ms=0,  # a file has no listener
        timeout_ms=timeout_ms,
        session=session,
        session_heard_ms=session_heard_ms,
    )
    try:
        opened = Client(url, api_key, ca=ca, metadata=dict(map(_name_and_value, metadata or [])))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with opened as client:
        recording = Recording()
        try:
            with client.stream(request) as stream, WavWriter(output) as wav, _interrupt_cancels(stream):
                _record(stream, recording, wav)
        except (KeyboardInterrupt, Cancelled):
            _report(output, recording.speech(), session)
            raise typer.Exit(130) from None
        except (MisoError, OSError) as error:
            typer.echo("error: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(2 if isinstance(error, InvalidArgument) else 1) from None
    _report(output, recording.speech(), session)


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"metadata must be NAME=VALUE, got {text}")
    return name, value


@contextmanager
def _interrupt_cancels(stream: Stream) -> Iterator[None]:
    """Cancel the stream at the first Ctrl-C. A KeyboardInterrupt could be lost, or stop gRPC's code in the middle."""

    def cancel(*_: object) -> None:
        signal.signal(signal.SIGINT, previous)
        stream.cancel()

    previous = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _record(stream: Iterable[Chunk], recording: Recording, wav: WavWriter) -> None:
    """Record the chunks as they arrive. On a terminal, a line shows how much audio has arrived."""
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    with console.status("waiting for the first audio") as status:
        samples = 0
        for chunk in stream:
            recording.add(chunk)
            wav.write(chunk.audio)
            samples += len(chunk.audio)
            status.update(f"{samples / SAMPLE_RATE:.1f} s of audio")


def _report(output: Path, speech: Speech, session: str | None) -> None:
    first = "no audio" if speech.ttfa_s is None else f"{speech.ttfa_s * 1000:.0f} ms"
    name = "standard output" if output == STANDARD_OUTPUT else str(output)
    typer.echo(name if len(speech.audio) else f"{name}: not written, no audio arrived", err=True)
    typer.echo(f"  time to first audio  {first}", err=True)
    if speech.audible_ttfa_s is not None and speech.leading_silence_s is not None:
        typer.echo(f"  audible after        {speech.audible_ttfa_s * 1000:.0f} ms", err=True)
        typer.echo(f"  leading silence      {speech.leading_silence_s * 1000:.0f} ms", err=True)
    typer.echo(f"  real-time factor     {speech.rtf:.3f}", err=True)
    typer.echo(f"  audio                {speech.audio_s:.2f} s", err=True)
    typer.echo(f"  seed                 {'unknown' if speech.seed is None else speech.seed}", err=True)
    typer.echo(f"  finish               {speech.finish or 'cancelled'}", err=True)
    if session is not None:
        typer.echo(f"  turns before         {speech.session_turns}", err=True)


def main() -> None:
    """The command `misotts-say`."""
    typer.run(say)
