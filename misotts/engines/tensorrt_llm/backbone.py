"""The backbone in TensorRT-LLM, on the GPU that it was built for.

`_Session` has never run: TensorRT-LLM could not be installed on any machine so far. The rest is tested with a session
that follows the attention plugin's documentation.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from misotts.config import ModelConfig
from misotts.engines.interface import Batch, Limits
from misotts.engines.manifest import Manifest, weights_hash
from misotts.engines.table import BACKBONES, EngineError, EngineFolder, Variant
from misotts.engines.tensorrt_depth import gpu_here
from misotts.engines.tensorrt_llm.tables import INPUT, OUTPUT, Tables, constant_tables, pool_shape, step_tables
from misotts.model.weight_files import Weights

ENGINE = "rank0.engine"

CHUNK_TOLERANCE = 0.2
"""Largest RMS difference, as a share of the RMS, that rounding may make between a prompt in two chunks and in one."""


def torch_dtype(variant: Variant) -> torch.dtype:
    """Type of a variant's activations."""
    return cast(torch.dtype, getattr(torch, variant.dtype))


def kv_dtype(variant: Variant) -> torch.dtype:
    return torch.float8_e4m3fn if variant.kv_type == "fp8" else torch_dtype(variant)


def engine_bytes(model: Path, variant: Variant, max_streams: int) -> int:
    """Size of a rank's engine in a model folder; 0 if there is none."""
    engine = variant.engine(model, max_streams).path / ENGINE
    return engine.stat().st_size if engine.is_file() else 0


class TensorrtLlmBackbone:
    """Runs the engine that `python -m build backbone MODEL` builds, on torch's current stream."""

    def __init__(
        self,
        model: Path,
        weights: Weights,
        config: ModelConfig,
        variant: Variant,
        limits: Limits,
        num_blocks: int,
        device: str = "cuda",
    ) -> None:
        """Load the engine of a model folder with these `weights`, and allocate the pool.

        Raises:
            EngineError: TensorRT-LLM is not installed, or the engine is missing, of other weights, built by another
                release or for another GPU, too small for `limits`, split over several GPUs, or cannot prefill in chunks
                on this GPU.
        """
        folder = variant.engine(model, limits.max_streams)
        manifest = checked_manifest(folder, weights, config, limits)
        self.num_blocks, self.block_size = num_blocks, manifest.limits["block_size"]
        self._columns = -(-config.max_seq_len // self.block_size)
        c = self._config = config.backbone
        shape = pool_shape(num_blocks, c.num_layers, c.num_kv_heads, self.block_size, c.head_dim)
        self._pool = torch.zeros(shape, dtype=kv_dtype(variant), device=device)
        max_sequences, address = manifest.limits["sequences"], self._pool.data_ptr()
        self._constants = _tensors(constant_tables(c.num_layers, config.max_seq_len, max_sequences, address), device)
        self._session = _Session(folder.path / ENGINE)
        rows = min(2 * self.block_size, manifest.limits["positions"], config.max_seq_len)
        if rows > self.block_size + 1:  # otherwise no prompt of two chunks fits into one step
            embeddings = weights["text_embeddings.weight"]
            prompt = embeddings[:: max(len(embeddings) // rows, 1)][:rows]
            self._check_chunks(prompt.to(device, torch_dtype(variant)), folder.path)

    def _check_chunks(self, prompt: torch.Tensor, folder: Path) -> None:
        """Check that the last hidden state of a prompt [positions, width] is the same in two chunks as in one.

        If TensorRT-LLM has no fused kernel for a head size on a GPU, its plugin uses one that ignores earlier chunks,
        and reports it only by a line in its log, "Fall back to unfused MHA".

        Raises:
            EngineError: the hidden states differ by more than `CHUNK_TOLERANCE`.
        """
        first = self.block_size
        whole = self._prefill(prompt, 0)
        self._pool.zero_()  # so that the second chunk needs what the first one writes
        self._prefill(prompt[:first], 0)
        chunked = self._prefill(prompt[first:], first)
        self._pool.zero_()
        off = float((chunked - whole).square().mean().sqrt() / whole.square().mean().sqrt())
        if not off < CHUNK_TOLERANCE:  # also if it is NaN
            raise EngineError(
                f"the engine at {folder} gives a prompt in two chunks another hidden state than in one: it differs "
                f"by {off:.0%}, and rounding explains at most {CHUNK_TOLERANCE:.0%}. If TensorRT-LLM's log says "
                '"Fall back to unfused MHA", it has no kernel for this head size on this GPU'
            )

    def _prefill(self, inputs: torch.Tensor, start: int) -> torch.Tensor:
        """Compute one sequence's positions from `start` on in blocks 1 and 2; return the last hidden state, float32."""
        lengths, starts = np.array([len(inputs)], np.int32), np.array([start], np.int32)
        blocks = np.zeros((1, self._columns), np.int32)  # as many columns as in serving
        blocks[0, :2] = 1, 2
        return self.forward(Batch(inputs, lengths, starts, blocks)).float()

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See `Backbone.forward`."""
        device = batch.inputs.device
        step = step_tables(batch, self._config.num_layers)
        order = _tensors({"positions": step.positions, "sequences": step.sequences}, device)
        inputs = {INPUT: batch.inputs[order["positions"]], **self._constants, **_tensors(step.tables, device)}
        output = batch.inputs.new_empty(len(batch.lengths), self._config.embed_dim)
        self._session.run(inputs, {OUTPUT: output})
        return output[order["sequences"]]


class _Session:
    """TensorRT-LLM's `Session`, called with tensors."""

    def __init__(self, engine: Path) -> None:
        import tensorrt_llm  # noqa: F401 (loads the plugins that the engine needs)
        from tensorrt_llm.runtime.session import Session

        self._session: Any = Session.from_serialized_engine(engine.read_bytes())
        self._inputs: Weights = {}

    def run(self, inputs: Weights, outputs: Weights) -> None:
        from tensorrt_llm._utils import torch_dtype_to_trt
        from tensorrt_llm.runtime.session import TensorInfo

        shapes = [TensorInfo(name, torch_dtype_to_trt(t.dtype), tuple(t.shape)) for name, t in inputs.items()]
        self._session.infer_shapes(shapes)  # also sets them
        if not self._session.run(inputs, outputs, torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT-LLM could not run the backbone engine")
        # Tables on the host must live until the step has run. Those on the device need not: torch reuses their memory
        # only for later work on the same stream.
        self._inputs = inputs


def checked_manifest(folder: EngineFolder, weights: Weights, config: ModelConfig, limits: Limits) -> Manifest:
    """Return the manifest of an engine that may be used here.

    Raises:
        EngineError: see `TensorrtLlmBackbone`.
    """
    manifest = Manifest.load(folder)
    manifest.check(folder, made_with=tensorrt_llm_release(), gpu=gpu_here())
    manifest.check(folder, limits={"ranks": 1, "max_seq_len": config.max_seq_len})
    manifest.check(folder, weights=backbone_hash(weights, config))
    needed = {"sequences": limits.max_streams, "positions": limits.largest_step(manifest.limits["block_size"])}
    for name, number in needed.items():
        if manifest.limits[name] < number:
            raise folder.unusable(f"takes {manifest.limits[name]} {name}, but {number} are needed")
    return manifest


def backbone_hash(weights: Weights, config: ModelConfig) -> str:
    """`weights_hash` of the tensors of a backbone engine."""
    return weights_hash(weights, [name for name in weights if name.startswith("backbone.")], config.backbone)


def tensorrt_llm_release() -> dict[str, str]:
    """Return name and release of TensorRT-LLM: an engine runs only in the release that built it.

    Raises:
        EngineError: it is not installed.
    """
    try:
        return {"tensorrt_llm": version("tensorrt_llm")}
    except PackageNotFoundError:
        raise EngineError(f"the backbone engine needs {BACKBONES['tensorrt-llm'].package}") from None


def _tensors(tables: Tables, device: str | torch.device) -> dict[str, torch.Tensor]:
    """Return tables as contiguous tensors, on the host if the name begins with `host_`, otherwise on the device."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(table)) for name, table in tables.items()}
    return {name: t if name.startswith("host_") else t.to(device) for name, t in tensors.items()}
