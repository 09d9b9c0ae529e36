"""The depth decoder in TensorRT, on the GPU that it was built for. This code has never run: no machine so far had both
the library and a GPU that it builds for. The graph compiles (docs/engines.md)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from misotts.config import ModelConfig
from misotts.engines.interface import Sampling
from misotts.engines.manifest import Manifest, depth_hash, dtype_name
from misotts.engines.table import EngineError, tensorrt_depth_folder
from misotts.model.weight_files import Weights

ENGINE = "engine.plan"


class TensorrtDepth:
    """Runs the engine that `python -m build depth MODEL` builds, on torch's current stream."""

    def __init__(
        self, model: Path, weights: Weights, config: ModelConfig, dtype: torch.dtype, max_streams: int
    ) -> None:
        """Load the engine of a model folder with these `weights`.

        Raises:
            EngineError: TensorRT is not installed, or the engine is missing, of other weights, built by another release
                or for another GPU, or too small for `max_streams`.
        """
        folder = tensorrt_depth_folder(model, dtype_name(dtype), max_streams)
        library = tensorrt_library()
        manifest = Manifest.load(folder)
        manifest.check(folder, made_with=release(library), gpu=gpu_here())
        manifest.check(folder, weights=depth_hash(weights, config))
        if manifest.limits["streams"] < max_streams:
            raise folder.unusable(f"takes {manifest.limits['streams']} streams, but {max_streams} are needed")
        self._runtime = library.Runtime(library.Logger(library.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine((folder.path / ENGINE).read_bytes())
        if self._engine is None:
            raise EngineError(f"the engine at {folder.path} cannot be loaded: TensorRT has logged the reason")
        self._context = self._engine.create_execution_context()
        self._codebooks = config.audio_num_codebooks

    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Depth.forward`."""
        inputs = {
            "hidden": hidden.contiguous(),
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "noise": sampling.noise.contiguous(),
        }
        codes = sampling.top_k.new_empty(len(hidden), self._codebooks)
        embedding = torch.empty_like(inputs["hidden"])
        for name, tensor in inputs.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
        for name, tensor in {**inputs, "codes": codes, "embedding": embedding}.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        # Inputs may be freed on return: torch reuses their memory only for later work on the same stream.
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT could not run the depth engine")
        return codes, embedding


def tensorrt_library() -> Any:
    """Return the module of TensorRT or, if it is not installed, of TensorRT for RTX.

    Raises:
        EngineError: neither is installed.
    """
    for name in ("tensorrt", "tensorrt_rtx_bindings"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise EngineError("the depth engine needs TensorRT (NVIDIA's container has it) or TensorRT for RTX (the extra rtx)")


def release(library: Any) -> dict[str, str]:
    """Return name and release of a `tensorrt_library`: an engine runs only in the release that built it."""
    return {library.__name__.removesuffix("_bindings"): library.__version__}


def gpu_here() -> str | None:
    """Return the compute capability of the current GPU, such as 9.0, or None without a GPU."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"
