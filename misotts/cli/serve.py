"""The command `misotts serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from misotts.cli.errors import one_line_errors
from misotts.cli.gateway_options import with_gateway_options
from misotts.cli.options import DEFAULT_MODEL, KeyFile, Model, Voices, port_option
from misotts.engines.table import BackboneLibrary, DepthLibrary, EngineChoice, KvType, WeightType
from misotts.generate.conversations import SESSIONS, SessionOptions
from misotts.generate.flow import AdmissionRule, FlowOptions
from misotts_client.contract import INPUTS

UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}


def parse_size(text: str) -> int:
    """Read a size such as `20GiB`, `512MiB`, `1.5GB` or a plain number of bytes; return it in bytes.

    Raises:
        typer.BadParameter: `text` is not a size of at least one byte.
    """
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    try:
        size = int(float(text.removesuffix(unit)) * UNITS.get(unit, 1))
    except (ValueError, OverflowError):  # OverflowError: the number is infinite
        size = 0
    if size < 1:
        raise typer.BadParameter(f"{text!r} is not a size; write it like 20GiB")
    return size


def parse_max_audio(text: str) -> int | None:
    """Read `auto`, which is None, or a number of ms within the limits of MAX_AUDIO_MS.

    Raises:
        typer.BadParameter: `text` is neither.
    """
    limits = INPUTS["MAX_AUDIO_MS"]
    if text == "auto":
        return None
    if not (text.isdecimal() and limits.low <= int(text) <= limits.high):
        raise typer.BadParameter(f"must be auto or {limits.range} ms, got {text!r}")
    return int(text)


def _gone(port: int | None) -> int | None:
    """Refuse --metrics-port, which earlier releases had."""
    if port is not None:
        raise typer.BadParameter("is gone: /metrics is on the --ready-port (8003) now, beside /ready")
    return port


def _ports(first: int) -> str:
    return f"{first}, and 10 more for each number of --gpu."


@with_gateway_options
def serve(
    model: Model = DEFAULT_MODEL,
    voices: Voices = None,
    host: Annotated[str, typer.Option(help="Address or host name to listen on.")] = "0.0.0.0",
    gpu: Annotated[
        int | None,
        typer.Option(min=0, help="Use this GPU of several, counted from 0, and its share of the cores near it."),
    ] = None,
    grpc_port: Annotated[int | None, port_option(f"Port of gRPC; by default {_ports(8001)}")] = None,
    http_port: Annotated[int | None, port_option(f"Port of HTTP and WebSockets; by default {_ports(8080)}")] = None,
    ready_port: Annotated[
        int | None, port_option(f"Port of /ready, /live and /metrics; by default {_ports(8003)}")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(hidden=True, callback=_gone)] = None,
    max_streams: Annotated[int, typer.Option(min=1, help="Largest number of utterances generated at once.")] = 16,
    kv_memory: Annotated[
        int | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="Size of the KV pool, such as 20GiB. By default it is as large as --max-streams can use, or as "
            "GPU memory allows.",
        ),
    ] = None,
    backbone: Annotated[
        BackboneLibrary,
        typer.Option(
            help="Backbone engine. `auto` is `compiled` on the CPU, if there is a C++ compiler, and otherwise `torch`. "
            "The `graph` engine runs the depth decoder too."
        ),
    ] = "auto",
    weights: Annotated[
        WeightType, typer.Option(help="Number format of the matrices; `full` is the type of the activations.")
    ] = "full",
    kv_type: Annotated[
        KvType, typer.Option(help="Number format of keys and values; `full` is the type of the activations.")
    ] = "full",
    depth: Annotated[DepthLibrary, typer.Option(help="Depth engine; `auto` as for the backbone.")] = "auto",
    watermark_key_file: KeyFile = None,
    allow_reference_key: Annotated[
        bool, typer.Option(help="Watermark with the key that MisoTTS publishes. Such a mark proves nothing.")
    ] = False,
    allow_weak_key: Annotated[
        bool, typer.Option(help="Take a watermark key that is weak: one with few different symbols.")
    ] = False,
    lead_seconds: Annotated[
        float,
        typer.Option(min=0, help="Audio that generation may be ahead of playback while nothing waits; 0: no bound."),
    ] = 10.0,
    admission: Annotated[
        AdmissionRule,
        typer.Option(help="Let as many utterances run as there are slots, or as the step time allows in 80 ms."),
    ] = "slots",
    max_wait: Annotated[
        float, typer.Option(min=0, help="Seconds; a request that would wait longer for its slot is refused.")
    ] = 2.0,
    max_audio: Annotated[
        int | None,
        typer.Option(
            parser=parse_max_audio,
            metavar="auto|MS",
            help="Longest audio of a request without MAX_AUDIO_MS; auto: 3 s and 1.2 s a word, from 6 s to 90 s.",
        ),
    ] = None,
    max_sessions: Annotated[
        int, typer.Option(min=0, help="Largest number of conversations that are kept; 0: none is.")
    ] = SESSIONS.most,
    session_seconds: Annotated[
        float, typer.Option(min=0, help="Time since its last turn after which a conversation is forgotten.")
    ] = SESSIONS.idle_s,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Longest time that running streams get to end when the server stops.")
    ] = 60.0,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write the lines on stderr as JSON objects.")] = False,
    gateway: tuple[str, ...] = (),
) -> None:
    """Run the server until SIGINT or SIGTERM.

    At the signal it refuses new requests, lets running streams end and exits with status 0. A second signal stops it
    immediately. It exits with status 1 if it cannot start, or if a stage, tritonserver or the gateway dies.
    """
    from misotts.serve.gpus import NoGpuError, use_gpu
    from misotts.serve.launcher import ServeError
    from misotts.serve.launcher import serve as run
    from misotts.serve.report import report, write_json
    from misotts.serve.settings import Ports, ServeOptions
    from misotts.watermark.key import REFERENCE_KEY, WatermarkKeyError, read_key

    if log_json:
        write_json()
    ports = Ports.of(gpu, grpc_port, http_port, ready_port)
    if len({*vars(ports).values()}) < 3:
        raise typer.BadParameter("--grpc-port, --http-port and --ready-port must differ")
    with one_line_errors(ServeError, WatermarkKeyError, NoGpuError):
        if gpu is not None:
            report(f"misotts: {use_gpu(gpu)}")
        options = ServeOptions(
            model=model,
            voices=voices,
            host=host,
            ports=ports,
            gateway=gateway,
            max_streams=max_streams,
            kv_memory=kv_memory,
            engines=EngineChoice(backbone, weights, kv_type, depth),
            watermark_key=REFERENCE_KEY if allow_reference_key else read_key(watermark_key_file, allow_weak_key),
            flow=FlowOptions(lead_seconds, admission, max_wait),
            sessions=SessionOptions(max_sessions, session_seconds),
            max_audio_ms=max_audio,
            drain_s=drain_seconds,
        )
        run(options)
