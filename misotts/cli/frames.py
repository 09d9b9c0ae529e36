"""The command `misotts frames`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from misotts.cli.errors import one_line_errors
from misotts.cli.options import DEFAULT_MODEL, Model, Voices


def frames(
    text: Annotated[str, typer.Argument(help="Text to speak.")],
    model: Model = DEFAULT_MODEL,
    voices: Voices = None,
    speaker: Annotated[int, typer.Option(help="Number of the speaker.")] = 0,
    voice: Annotated[str | None, typer.Option(help="Name of a registered voice.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of the sampling, 0 (greedy) to 2. By default the model's.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Number of the most likely codes to sample from. By default the model's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling. By default it is random.")] = None,
    max_frames: Annotated[int, typer.Option(min=1, max=2000, help="Most frames of 80 ms.")] = 50,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON list, with a list of codes per frame.")
    ] = False,
) -> None:
    """Print the frames that the language model generates for TEXT, 32 codes a line, without the end-of-speech frame.

    Loads neither Mimi's decoder nor the watermark.
    """
    from misotts.config import FRAME_MS, ConfigError
    from misotts.files import folder_fault
    from misotts.model.weight_files import CheckpointError
    from misotts.synthesizer import Synthesizer
    from misotts.watermark.silentcipher import SilentCipherError
    from misotts_client.errors import MisoError

    fields = dict(speaker=speaker, voice=voice, temperature=temperature, top_k=top_k, seed=seed)
    with one_line_errors(ConfigError, CheckpointError, SilentCipherError, MisoError):
        if voices and (fault := folder_fault(voices)):
            raise ConfigError(f"no voices at {voices}: it {fault}")
        with Synthesizer.load(model, voices) as synthesizer:
            codes = synthesizer.frames(text, max_audio_ms=max_frames * FRAME_MS, **fields)
    rows = codes.tolist()
    typer.echo(json.dumps(rows) if as_json else "\n".join(" ".join(f"{code:4d}" for code in row) for row in rows))
