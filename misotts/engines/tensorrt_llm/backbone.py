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
from misotts.engines.kv_memory import free_memory, pool_blocks
from misotts.engines.manifest import Manifest, weights_hash
from misotts.engines.table import BACKBONES, EngineError, EngineFolder, Variant
from misotts.engines.tensorrt_depth import gpu_here
from misotts.engines.tensorrt_llm.tables import INPUT, OUTPUT, Tables, constant_tables, pool_shape, step_tables
from misotts.engines.transfer import Device, to_device
from misotts.model.weight_files import Weights

ENGINE = "rank0.engine"

RELEASES = "1.2."
"""The releases of TensorRT-LLM that have all that is used here begin with this."""

ALIGNMENT = 64
"""TensorRT reads device memory from multiples of 256 bytes, which are 64 int32, on."""

UNFUSED = 'If TensorRT-LLM\'s log says "Fall back to unfused MHA", it has no kernel for this head size on this GPU'

CHUNK_TOLERANCE = 0.2
"""Largest RMS difference, as a share of the RMS, that rounding may make between a prompt in two chunks and in one."""


def torch_dtype(variant: Variant) -> torch.dtype:
    """Type of a variant's activations."""
    return cast(torch.dtype, getattr(torch, variant.dtype))


def kv_dtype(variant: Variant) -> torch.dtype:
    return torch.float8_e4m3fn if variant.kv_type == "fp8" else torch_dtype(variant)


class TensorrtLlmBackbone:
    """Runs the engine that `python -m build backbone MODEL` builds, on torch's current stream."""

    def __init__(
        self,
        model: Path,
        weights: Weights,
        config: ModelConfig,
        variant: Variant,
        limits: Limits,
        kv_memory: int | None = None,
        device: str = "cuda",
    ) -> None:
        """Load the engine of a model folder with these `weights`, and allocate the pool in the memory that is left.

        `kv_memory`: most bytes of the pool.

        Raises:
            ConfigError: the memory does not hold one utterance of full length.
            EngineError: TensorRT-LLM is not installed, or the engine is missing, of other weights, built by another
                release or for another GPU, too small for `limits`, split over several GPUs, cannot be loaded, or cannot
                prefill in chunks on this GPU.
        """
        folder = variant.engine(model, limits.max_streams)
        manifest = checked_manifest(folder, weights, config, limits)
        self.block_size = manifest.limits["block_size"]
        self._columns = -(-config.max_seq_len // self.block_size)
        c = self._config = config.backbone
        self._session = _Session(folder.path / ENGINE)  # before the pool: nothing else tells the size of its workspace
        free = None if device == "cpu" else free_memory()
        self.num_blocks = pool_blocks(config, limits.max_streams, kv_dtype(variant).itemsize, kv_memory, free)
        shape = pool_shape(self.num_blocks, c.num_layers, c.num_kv_heads, self.block_size, c.head_dim)
        self._pool = torch.zeros(shape, dtype=kv_dtype(variant), device=device)
        max_sequences, address = manifest.limits["sequences"], self._pool.data_ptr()
        self._constants = _tensors(constant_tables(c.num_layers, config.max_seq_len, max_sequences, address), device)
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
                f"by {off:.0%}, and rounding explains at most {CHUNK_TOLERANCE:.0%}. {UNFUSED}"
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
        step = step_tables(batch, self._config.num_layers)
        order = {"positions": step.positions, "sequences": step.sequences}
        tables = _tensors({**order, **step.tables}, batch.inputs.device)
        positions, sequences = (tables.pop(name) for name in order)
        output = batch.inputs.new_empty(len(batch.lengths), self._config.embed_dim)
        self._session.run({INPUT: batch.inputs[positions], **self._constants, **tables}, {OUTPUT: output})
        return output[sequences]


class _Session:
    """TensorRT-LLM's `Session`, called with tensors."""

    def __init__(self, engine: Path) -> None:
        """Raises EngineError if the engine, or the workspace of its attention, does not fit into the GPU's memory."""
        import tensorrt_llm  # noqa: F401 (loads the plugins that the engine needs)
        from tensorrt_llm.runtime.session import Session

        try:
            self._session: Any = Session.from_serialized_engine(engine.read_bytes())
        except AssertionError as error:
            raise EngineError(f"the engine at {engine} cannot be loaded: {error} {UNFUSED}") from None
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
    needed = {"sequences": limits.max_streams, "positions": largest_step(config, limits, manifest.limits["block_size"])}
    for name, number in needed.items():
        if manifest.limits[name] < number:
            raise folder.unusable(f"takes {manifest.limits[name]} {name}, but {number} are needed")
    return manifest


def largest_step(config: ModelConfig, limits: Limits, block_size: int) -> int:
    """Return the most positions of a step; TensorRT-LLM's builder allows no more than `max_seq_len` for a sequence."""
    return min(limits.largest_step(block_size), config.max_seq_len * limits.max_streams)


def backbone_hash(weights: Weights, config: ModelConfig) -> str:
    """`weights_hash` of the tensors of a backbone engine."""
    return weights_hash(weights, [name for name in weights if name.startswith("backbone.")], config.backbone)


def tensorrt_llm_release() -> dict[str, str]:
    """Return name and release of TensorRT-LLM: an engine runs only in the release that built it.

    Raises:
        EngineError: it is not installed, or of a release without TensorRT: 1.3 has removed it.
    """
    needs = f"the backbone engine needs {BACKBONES['tensorrt-llm'].package}"
    try:
        found = version("tensorrt_llm")
    except PackageNotFoundError:
        raise EngineError(needs) from None
    if not found.startswith(RELEASES):
        raise EngineError(f"{needs}; this machine has {found}, and releases from 1.3 on have no TensorRT")
    return {"tensorrt_llm": found}


def _tensors(tables: Tables, device: Device) -> dict[str, torch.Tensor]:
    """Return tables as contiguous tensors, on the host if the name begins with `host_`; the others, as int32, on the
    device, to which they are copied in one piece."""
    host = {name: np.ascontiguousarray(table) for name, table in tables.items() if name.startswith("host_")}
    others = {name: table for name, table in tables.items() if name not in host}
    sizes = [-(-table.size // ALIGNMENT) * ALIGNMENT for table in others.values()]
    packed = np.zeros(sum(sizes), np.int32)
    for piece, table in zip(np.split(packed, np.cumsum(sizes[:-1])), others.values(), strict=True):
        piece[: table.size] = table.ravel()
    pieces = zip(to_device(packed, device).split(sizes), others.items(), strict=True)
    there = {name: piece[: table.size].view(table.shape) for piece, (name, table) in pieces}
    return {**there, **{name: torch.from_numpy(table) for name, table in host.items()}}
