"""The backbone's checkpoint → `engines/backbone-tensorrt-llm-...`: `rank<n>.engine`, `config.json`, `manifest.json`.

The code before and after TensorRT-LLM's builder is tested. The builder itself has never been run: see
`miso_backbone.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from build.preflight import Needs
from misotts.config import ModelConfig
from misotts.engines.interface import Limits
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.manifest import Manifest
from misotts.engines.table import EngineError, Variant
from misotts.engines.tensorrt_depth import gpu_here
from misotts.engines.tensorrt_llm.backbone import backbone_hash, largest_step, tensorrt_llm_release
from misotts.model.atomic_folder import atomic_folder
from misotts.model.checkpoint import Checkpoint


def build_backbone(model: Path, variant: Variant, limits: Limits, report: Callable[[Needs], object]) -> Path:
    """Build the backbone engine of a model folder unless it exists already; return its folder. `report` is called with
    the memory and disk that the build needs, before it starts.

    Raises:
        ConfigError, CheckpointError: `model` is not a model folder.
        EngineError: the checkpoint is missing or of other weights, TensorRT-LLM or a suitable GPU is missing, or memory
            or disk do not suffice.
    """
    config = ModelConfig.load(model)
    source, folder = variant.checkpoint(model), variant.engine(model, limits.max_streams)
    checkpoint = Manifest.load(source)
    checkpoint.check(source, limits={"max_seq_len": config.max_seq_len})
    checkpoint.check(source, weights=backbone_hash(Checkpoint(model, config), config))
    made_with = {**checkpoint.made_with, **tensorrt_llm_release()}
    gpu, sizes = capable_gpu(variant), engine_limits(config, limits, variant.ranks)
    manifest = Manifest(checkpoint.weights, checkpoint.dtype, made_with, gpu, sizes)
    if manifest.is_at(folder):
        return folder.path
    needs = backbone_needs(source.path, variant)
    report(needs)
    needs.check(model)
    with atomic_folder(folder.path) as draft:
        for rank in range(variant.ranks):
            _build_rank(source.path, draft, rank, sizes, variant)
        check_built(json.loads((draft / "config.json").read_text(encoding="utf-8")), sizes)
        manifest.save(draft)
    return folder.path


FP8_ATTENTION = ("8.9", "9.0", "10.0", "10.3", "12.0", "12.1")
"""The compute capabilities for which TensorRT-LLM 1.2 has the context attention that reads FP8 keys and values."""


def capable_gpu(variant: Variant) -> str:
    """Return the compute capability of the GPU here.

    Raises:
        EngineError: there is no GPU, or an engine of this variant does not run on it.
    """
    gpu = gpu_here()
    if gpu is None:
        raise EngineError("TensorRT-LLM builds for the GPU of this machine, which has none")
    what, needed = ("FP8", (8, 9)) if variant.weights == "fp8" else (variant.dtype, (8, 0))
    if tuple(map(int, gpu.split("."))) < needed:
        raise EngineError(
            f"{what} needs compute capability {needed[0]}.{needed[1]} or above, the GPU of this machine has {gpu}"
        )
    if variant.kv_type == "fp8" and gpu not in FP8_ATTENTION:
        raise EngineError(
            f"--kv-type fp8 needs compute capability {' or '.join(FP8_ATTENTION)}, the GPU of this machine has {gpu}"
        )
    return gpu


def engine_limits(config: ModelConfig, limits: Limits, ranks: int) -> dict[str, int]:
    """Limits of the engine: the largest step that the scheduler can ask for."""
    return {
        "sequences": limits.max_streams,
        "positions": largest_step(config, limits, BLOCK_SIZE),
        "max_seq_len": config.max_seq_len,
        "block_size": BLOCK_SIZE,
        "ranks": ranks,
    }


def backbone_needs(source: Path, variant: Variant) -> Needs:
    """Memory and disk of a build, which holds one rank's file, the network's copy of it and the engine at the same
    time. An estimate, never measured."""
    sizes = [(source / f"rank{rank}.safetensors").stat().st_size for rank in range(variant.ranks)]
    return Needs(memory=3 * max(sizes), disk=sum(sizes))


def _build_rank(source: Path, draft: Path, rank: int, sizes: Mapping[str, int], variant: Variant) -> None:
    """Build one rank's engine on this machine's GPU. The ranks are alike, and no other GPU is needed."""
    from tensorrt_llm.builder import BuildConfig, build
    from tensorrt_llm.plugin import PluginConfig

    from build.miso_backbone import MisoBackbone

    plugins = PluginConfig()
    wanted = dict(
        gpt_attention_plugin="auto",
        gemm_plugin=None if variant.weights == "fp8" else "auto",
        tokens_per_block=sizes["block_size"],
        use_paged_context_fmha=True,
        use_fp8_context_fmha=variant.kv_type == "fp8",  # without it paged attention cannot read FP8 keys and values
        remove_input_padding=True,
        multiple_profiles=False,
    )
    for name, value in wanted.items():  # only some releases take them in the constructor
        setattr(plugins, name, value)
    settings = BuildConfig(
        max_input_len=sizes["max_seq_len"],
        max_seq_len=sizes["max_seq_len"],
        max_batch_size=sizes["sequences"],
        max_beam_width=1,
        max_num_tokens=sizes["positions"],
        opt_num_tokens=sizes["sequences"],  # most steps have one position of each sequence
        output_timing_cache=str(draft / "timing.cache"),  # by default it is written into the working directory
        plugin_config=plugins,
    )
    network = MisoBackbone.from_checkpoint(str(source), rank=rank)
    build(network, settings).save(str(draft))


def check_built(config: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Check the `config.json` that the builder writes against `sizes` and the settings that the tables presume: the
    builder changes some of them with no more than a line in its log.

    Raises:
        EngineError: the engine would read the tables in another way, or is smaller than the manifest will say.
    """
    built = config["build_config"]
    plugins = built["plugin_config"]
    wanted = dict(
        use_paged_context_fmha=True,
        context_fmha=True,
        remove_input_padding=True,
        tokens_per_block=BLOCK_SIZE,
        max_batch_size=sizes["sequences"],
        max_num_tokens=sizes["positions"],
        max_seq_len=sizes["max_seq_len"],
    )
    for name, value in wanted.items():
        found = {**built, **plugins}.get(name)
        if found != value:
            raise EngineError(f"TensorRT-LLM has built the backbone with {name} {found}, but {value} is needed")
    if not plugins.get("paged_kv_cache", True) or not plugins.get("gpt_attention_plugin"):
        raise EngineError("TensorRT-LLM has built the backbone without paged keys and values in its attention plugin")
