"""The table of engines: for each library the number formats that it can serve, the package that it needs, the folder in
`<model>/engines/` that it loads, and the command that builds that folder.

This module does not import torch: the command line reads it before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal, get_args

BackboneLibrary = Literal["auto", "compiled", "torch", "graph", "tensorrt-llm"]
"""Library that runs the backbone; `graph` runs the depth decoder as well (docs/graph-engine.md). `auto` is `compiled`
on the CPU, if the machine has a C++ compiler, and otherwise `torch`."""

DepthLibrary = Literal["auto", "compiled", "torch", "tensorrt"]
"""Library that runs the depth decoder; `auto` as for the backbone."""

WeightType = Literal["full", "int8", "fp8"]
"""Number format of the matrices; `full` is the type of the activations."""

KvType = Literal["full", "fp8"]
"""Number format of keys and values; `full` is the type of the activations."""

MANIFEST = "manifest.json"
"""The file of an engine folder that is written last; see `misotts.engines.manifest`."""


class EngineError(ValueError):
    """An engine that cannot be used: its options exclude each other, it is missing, or it does not match its model, GPU
    or library. The message says what to do."""


@dataclass(frozen=True)
class EngineChoice:
    """The engine options of `misotts serve`."""

    backbone: BackboneLibrary = "auto"
    weights: WeightType = "full"
    kv_type: KvType = "full"
    depth: DepthLibrary = "auto"


@dataclass(frozen=True)
class EngineFolder:
    """A folder in `<model>/engines/`, which may be missing, and the command that builds it."""

    path: Path
    build_command: str

    def missing(self) -> EngineError:
        """The error for a folder without a manifest."""
        return EngineError(f"no engine at {self.path}; build it with: {self.build_command}")

    def unusable(self, reason: str) -> EngineError:
        """The error for an engine that has to be built again."""
        return EngineError(f"the engine at {self.path} {reason}; build it again with: {self.build_command}")


@dataclass(frozen=True)
class Variant:
    """One of the TensorRT-LLM engines that a model's backbone can be built into.

    Raises:
        EngineError: TensorRT-LLM has no engine with these number formats.
    """

    weights: WeightType = "full"
    kv_type: KvType = "full"
    dtype: str = "bfloat16"
    """Type of the activations and norms, and of matrices in `full`."""
    ranks: int = 1
    """GPUs that share every layer: tensor parallelism."""

    def __post_init__(self) -> None:
        _check_types("tensorrt-llm", self.weights, self.kv_type)

    def checkpoint(self, model: Path) -> EngineFolder:
        """The folder that the engine is built from."""
        return _folder(model, f"backbone-checkpoint{self._suffix}", f"convert backbone {model} {self._options}")

    def engine(self, model: Path, max_streams: int) -> EngineFolder:
        command = f"build backbone {model} {self._options} --max-streams {max_streams}"
        return _folder(model, f"backbone-tensorrt-llm{self._suffix}", command)

    @property
    def _suffix(self) -> str:
        weights = "" if self.weights == "full" else f"-{self.weights}"
        return f"{weights}{'' if self.kv_type == 'full' else '-kv8'}-tp{self.ranks}-{self.dtype}"

    @property
    def _options(self) -> str:
        return f"--dtype {self.dtype} --ranks {self.ranks} --weights {self.weights} --kv-type {self.kv_type}"


def depth_graph_folder(model: Path, dtype: str) -> EngineFolder:
    """The depth decoder as an ONNX graph."""
    return _folder(model, f"depth-onnx-{dtype}", f"convert depth {model} --dtype {dtype}")


def tensorrt_depth_folder(model: Path, dtype: str, max_streams: int) -> EngineFolder:
    command = f"build depth {model} --dtype {dtype} --max-streams {max_streams}"
    return _folder(model, f"depth-tensorrt-{dtype}", command)


def _folder(model: Path, name: str, command: str) -> EngineFolder:
    return EngineFolder(model / "engines" / name, f"python -m {command}")


@dataclass(frozen=True)
class Library:
    """A row of the table."""

    types: tuple[tuple[WeightType, KvType], ...] = (("full", "full"),)
    """Number formats of weights and of keys and values that can be served together."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    modules: tuple[str, ...] = ()
    """Python modules, one of which must be installed."""
    package: str = ""
    """Name of the package that provides them, and where to get it."""
    folder: Callable[[Path, EngineChoice, int], EngineFolder] | None = None
    """The folder that the server loads from a model folder, for a number of streams; None: weights are enough."""


BACKBONES: dict[BackboneLibrary, Library] = {
    "auto": Library(),
    "compiled": Library(devices=("cpu",)),
    "torch": Library(),
    "graph": Library(types=tuple(product(get_args(WeightType), get_args(KvType)))),
    "tensorrt-llm": Library(
        # FP8 keys and values alone would switch off paged context attention, and with it prefill in chunks.
        types=(("full", "full"), ("fp8", "full"), ("fp8", "fp8")),
        devices=("cuda",),
        modules=("tensorrt_llm",),
        package="TensorRT-LLM 1.2, which comes with NVIDIA's container: see docs/deploy.md",
        folder=lambda model, choice, streams: Variant(choice.weights, choice.kv_type).engine(model, streams),
    ),
}

DEPTHS: dict[DepthLibrary, Library] = {
    "auto": Library(),
    "compiled": Library(devices=("cpu",)),
    "torch": Library(),
    "tensorrt": Library(
        devices=("cuda",),
        modules=("tensorrt", "tensorrt_rtx_bindings"),
        package="TensorRT, which comes with NVIDIA's container: see docs/deploy.md",
        folder=lambda model, choice, streams: tensorrt_depth_folder(model, "bfloat16", streams),
    ),
}


def check_engines(model: Path, choice: EngineChoice, max_streams: int) -> None:
    """Check what can be checked without loading anything.

    Raises:
        EngineError: the options exclude each other, a package is not installed, or an engine was not built.
    """
    check_choice(choice)
    for option, library in _libraries(choice):
        if library.modules and not any(map(_is_installed, library.modules)):
            raise EngineError(f"{option} needs {library.package}")
        if library.folder:
            folder = library.folder(model, choice, max_streams)
            if not (folder.path / MANIFEST).is_file():
                raise folder.missing()


def check_choice(choice: EngineChoice, device: str | None = None) -> None:
    """Check that the options can be combined and, if a device is given, that the engines run on it.

    Raises:
        EngineError: names the options.
    """
    if choice.backbone == "graph" and choice.depth != "auto":
        raise EngineError(f"--backbone graph runs the depth decoder too: leave out --depth {choice.depth}")
    _check_types(choice.backbone, choice.weights, choice.kv_type)
    for option, library in _libraries(choice):
        if device and ("cpu" if device == "cpu" else "cuda") not in library.devices:
            raise EngineError(f"{option} does not run on {device}")


def _check_types(backbone: BackboneLibrary, weights: WeightType, kv_type: KvType) -> None:
    types = BACKBONES[backbone].types
    if (weights, kv_type) not in types:
        offered = " or ".join(f"--weights {w} --kv-type {kv}" for w, kv in types)
        raise EngineError(
            f"the {backbone} backbone cannot have --weights {weights} --kv-type {kv_type}, only {offered}"
        )


def _libraries(choice: EngineChoice) -> list[tuple[str, Library]]:
    """The rows of a choice, each with the option that selects it."""
    backbone, depth = BACKBONES[choice.backbone], DEPTHS[choice.depth]
    return [(f"--backbone {choice.backbone}", backbone), (f"--depth {choice.depth}", depth)]


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None
