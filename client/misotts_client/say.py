"""The command `say`: text to a WAV file, over the network, while it is being spoken."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from misotts_client.chunk import SAMPLE_RATE, Chunk
from misotts_client.client import Client
from misotts_client.errors import InvalidArgument, MisoError
from misotts_client.request import SpeechRequest
from misotts_client.speech import Recording, Speech
from misotts_client.wav import WavWriter


def say(
    text: Annotated[str, typer.Argument(help="What to say.")],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="WAV file to write.")],
    url: Annotated[str, typer.Option(help="Host and gRPC port of the server.")] = "localhost:8001",
    voice: Annotated[str | None, typer.Option(help="Name of a registered voice.")] = None,
    speaker: Annotated[int | None, typer.Option(help="Speaker number.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 (greedy) to 2.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many codes.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeat the speech that had this seed.")] = None,
    max_audio_ms: Annotated[int | None, typer.Option(help="Longest audio, in ms.")] = None,
    chunk_frames: Annotated[
        int | None, typer.Option(help="Frames of 80 ms in a chunk; 0: the server's choice.")
    ] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="Longest time for the whole utterance, in ms.")] = None,
) -> None:
    """Speak TEXT into a WAV file. Ctrl-C stops the server's work too and keeps what has come."""
    request = SpeechRequest(
        text,
        speaker=speaker,
        voice=voice,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        max_audio_ms=max_audio_ms,
        chunk_frames=chunk_frames,
        timeout_ms=timeout_ms,
    )
    with Client(url) as client:
        recording = Recording()
        try:
            with client.stream(request) as stream, WavWriter(output) as wav:
                _record(stream, recording, wav)
        except KeyboardInterrupt:
            _report(output, recording.speech())
            raise typer.Exit(130) from None
        except (MisoError, OSError) as error:
            typer.echo("error: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(2 if isinstance(error, InvalidArgument) else 1) from None
    _report(output, recording.speech())


def _record(stream: Iterable[Chunk], recording: Recording, wav: WavWriter) -> None:
    """Takes the chunks as they come, with a line that shows how much has come where someone can see it."""
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    with console.status("waiting for the first audio") as status:
        samples = 0
        for chunk in stream:
            recording.add(chunk)
            wav.write(chunk.audio)
            samples += len(chunk.audio)
            status.update(f"{samples / SAMPLE_RATE:.1f} s of audio")


def _report(output: Path, speech: Speech) -> None:
    first = "none came" if speech.ttfa_s is None else f"{speech.ttfa_s * 1000:.0f} ms"
    typer.echo(str(output) if len(speech.audio) else f"{output}: not written, no audio came")
    typer.echo(f"  time to first audio  {first}")
    typer.echo(f"  real-time factor     {speech.rtf:.3f}")
    typer.echo(f"  audio                {speech.audio_s:.2f} s")
    typer.echo(f"  seed                 {'unknown' if speech.seed is None else speech.seed}")
    typer.echo(f"  finish               {speech.finish or 'cancelled'}")


def main() -> None:
    """The command `misotts-say`."""
    typer.run(say)
