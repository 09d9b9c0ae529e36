"""The command `misotts`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from misotts.cli import bench as bench_command
from misotts.cli.prepare import prepare
from misotts.cli.voices import app as voices_app
from misotts.cli.watermark import app as watermark_app
from misotts.engines.available import BackboneEngine, DepthEngine
from misotts_client.errors import MisoError
from misotts_client.say import say

app = typer.Typer(
    help="Serve MisoTTS and its family on Triton Inference Server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(say)
app.command()(prepare)
app.add_typer(voices_app, name="voices")
app.add_typer(watermark_app, name="watermark")
bench_command.mount(app)

DEFAULT_MODEL = Path("models/demo")
Model = Annotated[Path, typer.Option(envvar="MISOTTS_MODEL", help="Model folder.")]
Voices = Annotated[Optional[Path], typer.Option(envvar="MISOTTS_VOICES", help="Folder of voices.")]  # noqa: UP045


@app.command()
def serve(
    model: Model = DEFAULT_MODEL,
    voices: Voices = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    ready_port: Annotated[int, typer.Option(min=1, max=65535, help="Where /ready answers truthfully.")] = 8003,
    max_streams: Annotated[int, typer.Option(min=1, help="Utterances that generate at once.")] = 16,
    kv_memory: Annotated[str, typer.Option(help="Size of the KV pool, such as 20GiB; by default, as fits.")] = "",
    backbone: Annotated[BackboneEngine, typer.Option(help="Engine of the backbone; graph: of both.")] = "torch",
    depth: Annotated[DepthEngine, typer.Option(help="Engine of the depth decoder.")] = "torch",
    watermark_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File with the watermark's key, ten hexadecimal digits; or set MISOTTS_WATERMARK_KEY."),
    ] = None,
    allow_reference_key: Annotated[
        bool, typer.Option(help="Mark with MisoTTS's published key, which proves nothing.")
    ] = False,
    drain_seconds: Annotated[float, typer.Option(min=0, help="Longest time that streams get to end.")] = 60.0,
) -> None:
    """Start the server; stop it with SIGINT or SIGTERM, which let running streams end."""
    from misotts.serve.launcher import ServeError, ServeOptions
    from misotts.serve.launcher import serve as run
    from misotts.serve.tritonserver import Ports
    from misotts.watermark.key import REFERENCE_KEY, WatermarkKeyError, read_key

    if len({http_port, grpc_port, metrics_port, ready_port}) < 4:
        raise typer.BadParameter("--http-port, --grpc-port, --metrics-port and --ready-port must differ")
    try:
        key = REFERENCE_KEY if allow_reference_key else read_key(watermark_key_file)
    except WatermarkKeyError as error:
        _fail(str(error))
    options = ServeOptions(
        model=model,
        voices=voices,
        host=host,
        ports=Ports(http_port, grpc_port, metrics_port, ready_port),
        max_streams=max_streams,
        kv_memory=parse_size(kv_memory) if kv_memory else None,
        backbone=backbone,
        depth=depth,
        watermark_key=key,
        drain_s=drain_seconds,
    )
    try:
        run(options)
    except ServeError as error:
        _fail(str(error))


@app.command()
def frames(
    text: str,
    model: Model = DEFAULT_MODEL,
    voices: Voices = None,
    speaker: int = 0,
    voice: Annotated[Optional[str], typer.Option(help="Name of a voice.")] = None,  # noqa: UP045
    temperature: float = 0.9,
    top_k: int = 50,
    seed: Annotated[Optional[int], typer.Option(help="Fresh if left out.")] = None,  # noqa: UP045
    max_frames: Annotated[int, typer.Option(min=1, max=2000, help="Of 80 ms each.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="A list of lists of codes.")] = False,
) -> None:
    """Print the codes that the language model draws for TEXT, the end-of-speech frame left out. Loads no codec."""
    from misotts.config import FRAME_MS, ConfigError
    from misotts.model.checkpoint import CheckpointError
    from misotts.synthesizer import Synthesizer

    if voices and not voices.is_dir():
        _fail(f"no voices at {voices}: not a folder")
    fields = dict(speaker=speaker, voice=voice, temperature=temperature, top_k=top_k, seed=seed)
    try:
        with Synthesizer.load(model, voices) as synthesizer:
            codes = synthesizer.frames(text, max_audio_ms=max_frames * FRAME_MS, **fields)
    except (ConfigError, CheckpointError, MisoError) as error:
        _fail(str(error))
    rows = codes.tolist()
    typer.echo(json.dumps(rows) if as_json else "\n".join(" ".join(f"{code:4d}" for code in row) for row in rows))


@app.command()
def info(model: Model = DEFAULT_MODEL) -> None:
    """Print what a model folder holds."""
    from math import prod

    from misotts.config import ConfigError, ModelConfig
    from misotts.model.checkpoint import Checkpoint, CheckpointError, tensor_shapes

    try:
        config = ModelConfig.load(model)
        Checkpoint(model, config)
    except (ConfigError, CheckpointError) as error:
        _fail(str(error))
    shapes = tensor_shapes(config)
    typer.echo(f"{model}: {len(shapes)} tensors, {sum(map(prod, shapes.values())) / 1e6:.1f} M parameters")
    for name, part in (("backbone", config.backbone), ("depth decoder", config.depth)):
        heads = f"{part.num_heads} heads on {part.num_kv_heads} of keys and values"
        typer.echo(f"{name}: {part.num_layers} layers, width {part.embed_dim}, {heads}, MLP {part.intermediate_dim}")
    typer.echo(f"{config.audio_num_codebooks} codebooks of {config.audio_codes} codes, context {config.max_seq_len}")


def parse_size(text: str) -> int:
    """`20GiB`, `512MiB`, `1.5GB` or a plain number of bytes → bytes.

    Raises:
        typer.BadParameter: not a size, or none above 0.
    """
    units = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        size = int(float(text.removesuffix(unit)) * units.get(unit, 1))
    except (ValueError, OverflowError):  # infinity is a float
        size = 0
    if size < 1:
        raise typer.BadParameter(f"--kv-memory: {text!r} is no size; write it like 20GiB")
    return size


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
