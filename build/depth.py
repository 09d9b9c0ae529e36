"""The depth graph → `engines/depth-tensorrt-<dtype>`: `engine.plan`, `manifest.json`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch

from build.preflight import Needs
from convert.depth import GRAPH
from convert.depth_weights import depth_shapes
from misotts.config import ModelConfig
from misotts.engines.manifest import Manifest, depth_hash, dtype_name
from misotts.engines.table import EngineError, depth_graph_folder, tensorrt_depth_folder
from misotts.engines.tensorrt_depth import ENGINE, gpu_here, release, tensorrt_library
from misotts.model.atomic_folder import atomic_folder
from misotts.model.checkpoint import Checkpoint
from misotts_client.contract import INPUTS

MEMORY_PER_WEIGHT_BYTE, LEAST_MEMORY = 5, 2**30
"""At full size TensorRT for RTX took 4.8 bytes for each byte of weights, 1.1 of them for the graph's file:
docs/engines.md."""
DISK_PER_WEIGHT_BYTE, LEAST_DISK = 1.1, 2**27

Progress = Callable[[str, int, int], object]
"""Called with the name of TensorRT's phase, the number of its steps that are done, and the number of all."""


def build_depth(
    model: Path,
    dtype: torch.dtype,
    max_streams: int,
    gpu: str | None,
    progress: Progress,
) -> Path:
    """Build the depth engine of a model folder unless it exists already; return its folder.

    `gpu`: the compute capability to build for. TensorRT builds only for the GPU of this machine, TensorRT for RTX for
    any GPU that it supports.

    Raises:
        ConfigError, CheckpointError: `model` is not a model folder.
        EngineError: the graph is missing or of other weights, there is no such GPU, TensorRT rejects the graph, or
            memory or disk do not suffice.
    """
    config = ModelConfig.load(model)
    source, folder = (
        depth_graph_folder(model, dtype_name(dtype)),
        tensorrt_depth_folder(model, dtype_name(dtype), max_streams),
    )
    graph = Manifest.load(source)
    graph.check(source, weights=depth_hash(Checkpoint(model, config), config))
    library = tensorrt_library()
    target = gpu or gpu_here()
    if target is None:
        raise EngineError("this machine has no GPU to build for; with TensorRT for RTX, name one with --gpu")
    limits = {"streams": max_streams, "ranks": config.audio_codes}
    manifest = Manifest(graph.weights, graph.dtype, {**graph.made_with, **release(library)}, target, limits)
    if manifest.is_at(folder):
        return folder.path
    depth_needs(model, dtype).check(model)
    with atomic_folder(folder.path) as draft:
        (draft / ENGINE).write_bytes(_build(library, source.path / GRAPH, config, manifest, progress))
        manifest.save(draft)
    return folder.path


def depth_needs(model: Path, dtype: torch.dtype) -> Needs:
    """Memory and disk that `build_depth` needs."""
    weights = sum(map(prod, depth_shapes(ModelConfig.load(model)).values())) * dtype.itemsize
    memory = LEAST_MEMORY + MEMORY_PER_WEIGHT_BYTE * weights
    return Needs(memory, int(LEAST_DISK + DISK_PER_WEIGHT_BYTE * weights))


def _build(library: Any, graph: Path, config: ModelConfig, manifest: Manifest, progress: Progress) -> memoryview:
    builder = library.Builder(library.Logger(library.Logger.ERROR))
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(graph)):
        faults = [parser.get_error(n).desc() for n in range(parser.num_errors)]
        raise EngineError("TensorRT rejects the depth graph:\n  " + "\n  ".join(faults))
    settings = builder.create_builder_config()
    _set_target(library, settings, manifest.gpu)
    settings.add_optimization_profile(_profile(builder, config, manifest))
    settings.progress_monitor = monitor = _monitor(library, progress)
    engine = builder.build_serialized_network(network, settings)
    del monitor  # the builder does not keep it alive
    if engine is None:
        raise EngineError("TensorRT could not build the depth engine; it has logged the reason")
    return memoryview(engine)


def _set_target(library: Any, settings: Any, gpu: str | None) -> None:
    """Set the GPU to build for."""
    if not hasattr(settings, "set_compute_capability"):  # TensorRT proper
        if gpu != gpu_here():
            raise EngineError(f"TensorRT builds for the GPU of this machine, {gpu_here()}, not for {gpu}")
        return
    known = {f"{name[2:-1]}.{name[-1]}": value for name, value in library.ComputeCapability.__members__.items()}
    if gpu not in known:
        names = ", ".join(name for name in known if name[0].isdigit())
        raise EngineError(f"TensorRT for RTX does not build for compute capability {gpu}; it supports {names}")
    settings.num_compute_capabilities = 1
    settings.set_compute_capability(known[gpu], 0)


def _profile(builder: Any, config: ModelConfig, manifest: Manifest) -> Any:
    """Smallest, usual and largest shapes, for the number of streams and of the noise's ranks (a step's largest
    TOP_K)."""
    most, ranks = manifest.limits["streams"], manifest.limits["ranks"]
    streams = (1, max(most // 2, 1), most)
    top_k = (1, min(INPUTS["TOP_K"].default, ranks), ranks)
    profile = builder.create_optimization_profile()
    profile.set_shape("hidden", *[(n, config.backbone.embed_dim) for n in streams])
    profile.set_shape("temperature", *[(n,) for n in streams])
    profile.set_shape("top_k", *[(n,) for n in streams])
    profile.set_shape("noise", *[(n, config.audio_num_codebooks, k) for n, k in zip(streams, top_k, strict=True)])
    return profile


def _monitor(library: Any, progress: Progress) -> Any:
    class Monitor(library.IProgressMonitor):
        """Reports the outermost phases."""

        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not parent:
                self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.steps:
                progress(phase, step + 1, self.steps[phase])
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()
