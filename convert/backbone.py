"""A model folder's backbone → a TensorRT-LLM checkpoint, `engines/backbone-checkpoint-...`: `config.json` and a
`rank<n>.safetensors` for each rank (GPU)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from convert.backbone_weights import RankWeights, Weights
from convert.disk import check_disk
from convert.fp8 import Fp8
from misotts import __version__
from misotts.config import ModelConfig
from misotts.engines.manifest import Manifest
from misotts.engines.table import Variant
from misotts.engines.tensorrt_llm.backbone import backbone_hash, torch_dtype
from misotts.model.atomic_folder import atomic_folder
from misotts.model.checkpoint import Checkpoint, tensor_shapes
from misotts.model.weight_files import save_weights

ARCHITECTURE = "MisoBackbone"
"""Name under which `build/miso_backbone.py` registers the model class with TensorRT-LLM."""

Progress = Callable[[int, int], object]
"""Called with the number of bytes that are written, and the number of all."""


def convert_backbone(model: Path, variant: Variant, progress: Progress, fp8: Fp8 | None = None) -> Path:
    """Write the checkpoint of a model folder, unless it exists already; return its folder. `fp8`: the scales of a
    variant in FP8.

    Raises:
        ConfigError, CheckpointError: `model` is not a model folder, its heads cannot be split over the ranks, or a
            weight is too large for the type.
        EngineError: the disk is too full.
    """
    config = ModelConfig.load(model)
    weights = Checkpoint(model, config)
    folder = variant.checkpoint(model)
    made_with = {"misotts": __version__, **({"calibration": fp8.digest} if fp8 else {})}
    limits = {"ranks": variant.ranks, "max_seq_len": config.max_seq_len}
    manifest = Manifest(backbone_hash(weights, config), variant.dtype, made_with, limits=limits)
    if manifest.is_at(folder):
        return folder.path
    layouts = checkpoint_layout(config, variant, fp8)
    total = sum(tensor.nbytes for layout in layouts for tensor in layout.values())
    check_disk(model, total)
    with atomic_folder(folder.path) as draft:
        (draft / "config.json").write_text(json.dumps(checkpoint_config(config, variant), indent=2) + "\n", "utf-8")
        written = 0

        def wrote(size: int) -> None:
            nonlocal written
            written += size
            progress(written, total)

        for rank, layout in enumerate(layouts):
            tensors = _rank_weights(weights, config, variant, rank, fp8)
            save_weights(draft / f"rank{rank}.safetensors", layout, wrote, tensors.__getitem__)
        manifest.save(draft)
    return folder.path


def checkpoint_layout(config: ModelConfig, variant: Variant, fp8: Fp8 | None = None) -> list[dict[str, torch.Tensor]]:
    """Return each rank's tensors on the meta device: names, shapes and types, in the order of the file."""
    weights = {name: torch.empty(shape, device="meta") for name, shape in tensor_shapes(config).items()}
    return [dict(_rank_weights(weights, config, variant, rank, fp8)) for rank in range(variant.ranks)]


def _rank_weights(weights: Weights, config: ModelConfig, variant: Variant, rank: int, fp8: Fp8 | None) -> RankWeights:
    return RankWeights(weights, config.backbone, torch_dtype(variant), variant.ranks, rank, fp8)


def checkpoint_config(config: ModelConfig, variant: Variant) -> dict[str, Any]:
    """Return the checkpoint's `config.json`, with the keys of TensorRT-LLM's `PretrainedConfig`."""
    backbone = config.backbone
    return {
        "architecture": ARCHITECTURE,
        "dtype": variant.dtype,
        "logits_dtype": "float32",
        "vocab_size": config.audio_vocab_size,
        "hidden_size": backbone.embed_dim,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "num_key_value_heads": backbone.num_kv_heads,
        "head_size": backbone.head_dim,
        "intermediate_size": backbone.intermediate_dim,
        "hidden_act": "silu",
        "norm_epsilon": backbone.norm_eps,
        "position_embedding_type": "rope_gpt_neox",
        # Length of the table of sines in the engine.
        "max_position_embeddings": config.max_seq_len,
        "rotary_base": backbone.rope_base,
        # All four numbers: the defaults are not Llama 3's.
        "rotary_scaling": {
            "type": "llama3",
            "factor": backbone.rope_scale_factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "mapping": {"world_size": variant.ranks, "tp_size": variant.ranks, "pp_size": 1},
        "quantization": {
            "quant_algo": "FP8" if variant.weights == "fp8" else None,
            "kv_cache_quant_algo": "FP8" if variant.kv_type == "fp8" else None,
        },
    }
