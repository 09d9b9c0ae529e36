"""The engines that `misotts serve` can choose from, and what each needs to be there.

An engine's name is that of its library, then how its weights are stored where that is not the type it computes in.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

BackboneEngine = Literal[
    "torch",
    "tensorrt-llm",
    "tensorrt-llm-fp8",
    "tensorrt-llm-fp8-kv8",
    "graph",
    "graph-kv8",
    "graph-int8",
    "graph-int8-kv8",
    "graph-fp8",
    "graph-fp8-kv8",
]
"""What runs the backbone; `-fp8`, `-int8`: matrices in 8 bits, `-kv8`: keys and values in FP8. `graph` runs the depth
decoder as well: see docs/graph-engine.md."""

DepthEngine = Literal["torch", "onnx", "onnx-int8", "onnx-fp8", "tensorrt", "tensorrt-int8", "tensorrt-fp8"]
"""What runs the depth decoder; `-int8`, `-fp8`: matrices in 8 bits."""

_FP8_OPTION = {"tensorrt-llm": "no", "tensorrt-llm-fp8": "weights", "tensorrt-llm-fp8-kv8": "weights-and-kv"}


def missing_engine(model: Path, backbone: BackboneEngine, depth: DepthEngine, max_streams: int) -> str | None:
    """What keeps a model folder's engines from being loaded, as far as it can be told without loading anything: an
    engine that was never made, a library that is not installed. None if nothing does."""
    if backbone.startswith("graph"):
        return f"--backbone {backbone} runs the depth decoder too: leave out --depth" if depth != "torch" else None
    return _missing_backbone(model, backbone, max_streams) or _missing_depth(model, depth, max_streams)


def _missing_backbone(model: Path, engine: BackboneEngine, max_streams: int) -> str | None:
    if engine == "torch":
        return None
    if not _is_installed("tensorrt_llm"):
        return f"--backbone {engine} needs TensorRT-LLM 1.2, which comes with NVIDIA's container: see docs/deploy.md"
    how = f"python -m build backbone {model} --fp8 {_FP8_OPTION[engine]} --max-streams {max_streams}"
    return _missing_folder(model / "engines" / f"backbone-{engine}-tp1-bfloat16", how)


def _missing_depth(model: Path, engine: DepthEngine, max_streams: int) -> str | None:
    if engine == "torch":
        return None
    library, _, stored = engine.partition("-")
    weights = f" --weights {stored}" if stored else ""
    if library == "onnx":
        if not _is_installed("onnxruntime"):
            return f"--depth {engine} needs ONNX Runtime: pip install 'misotts-serving[onnx]'"
        return _missing_folder(
            model / "engines" / f"depth-{engine}-float32", f"python -m convert depth {model}{weights}"
        )
    if not _is_installed("tensorrt") and not _is_installed("tensorrt_rtx_bindings"):
        return f"--depth {engine} needs TensorRT, which comes with NVIDIA's container: see docs/deploy.md"
    how = f"python -m build depth {model}{weights} --max-streams {max_streams}"
    return _missing_folder(model / "engines" / f"depth-{engine}-bfloat16", how)


def _missing_folder(folder: Path, how: str) -> str | None:
    return None if (folder / "manifest.json").is_file() else f"no engine at {folder}; make it with: {how}"


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None
