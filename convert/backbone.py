"""A model folder's backbone → a TensorRT-LLM checkpoint, `engines/backbone-checkpoint-...`: `config.json` and a
`rank<n>.safetensors` for each GPU that will share the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convert.backbone_weights import RankWeights, Weights
from convert.disk import check_disk
from convert.fp8 import Fp8
from misotts import __version__
from misotts.config import ModelConfig
from misotts.engines.manifest import Manifest, dtype_name
from misotts.engines.table import Variant, WeightType
from misotts.engines.tensorrt_llm.backbone import backbone_hash
from misotts.model.atomic_folder import atomic_folder
from misotts.model.checkpoint import Checkpoint, tensor_shapes
from misotts.model.weight_files import save_weights

ARCHITECTURE = "MisoBackbone"
"""Under this name our model class is made known to TensorRT-LLM: see `build/miso_backbone.py`."""

Progress = Callable[[int, int], object]
"""Told how many bytes of the checkpoint are written, and how many there are in all."""


@dataclass(frozen=True)
class Target:
    """What a checkpoint is to be: as a `Variant` says, with the scales that FP8 takes."""

    dtype: torch.dtype = torch.bfloat16
    ranks: int = 1
    fp8: Fp8 | None = None

    @property
    def variant(self) -> Variant:
        weights: WeightType = "fp8" if self.fp8 else "full"
        return Variant(weights, "fp8" if self.fp8 and self.fp8.kv else "full", dtype_name(self.dtype), self.ranks)


def convert_backbone(model: Path, target: Target, progress: Progress) -> Path:
    """Write the checkpoint of a model folder, unless it is there already; return its folder.

    Raises:
        ConfigError, CheckpointError: `model` is no model folder, its heads cannot be split so, or a weight is too large
            for the type.
        EngineError: the disk is too full.
    """
    config = ModelConfig.load(model)
    weights = Checkpoint(model, config)
    folder = target.variant.checkpoint(model)
    made_with = {"misotts": __version__, **({"calibration": target.fp8.digest} if target.fp8 else {})}
    limits = {"ranks": target.ranks, "max_seq_len": config.max_seq_len}
    manifest = Manifest(backbone_hash(weights, config), dtype_name(target.dtype), made_with, limits=limits)
    if manifest.is_at(folder):
        return folder.path
    layouts = checkpoint_layout(config, target)
    total = sum(tensor.nbytes for layout in layouts for tensor in layout.values())
    check_disk(model, total)
    with atomic_folder(folder.path) as draft:
        (draft / "config.json").write_text(json.dumps(checkpoint_config(config, target), indent=2) + "\n", "utf-8")
        written = 0

        def wrote(size: int) -> None:
            nonlocal written
            written += size
            progress(written, total)

        for rank, layout in enumerate(layouts):
            tensors = _rank_weights(weights, config, target, rank)
            save_weights(draft / f"rank{rank}.safetensors", layout, wrote, tensors.__getitem__)
        manifest.save(draft)
    return folder.path


def checkpoint_layout(config: ModelConfig, target: Target) -> list[dict[str, torch.Tensor]]:
    """Each rank's tensors on the meta device: names, shapes and types, in the order of the file."""
    weights = {name: torch.empty(shape, device="meta") for name, shape in tensor_shapes(config).items()}
    return [dict(_rank_weights(weights, config, target, rank)) for rank in range(target.ranks)]


def _rank_weights(weights: Weights, config: ModelConfig, target: Target, rank: int) -> RankWeights:
    return RankWeights(weights, config.backbone, target.dtype, target.ranks, rank, target.fp8)


def checkpoint_config(config: ModelConfig, target: Target) -> dict[str, Any]:
    """The checkpoint's `config.json`, in the words of TensorRT-LLM's `PretrainedConfig`."""
    backbone = config.backbone
    return {
        "architecture": ARCHITECTURE,
        "dtype": dtype_name(target.dtype),
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
        # The length of the table of sines that is baked into the engine.
        "max_position_embeddings": config.max_seq_len,
        "rotary_base": backbone.rope_base,
        # All four numbers: what is missing falls back to other defaults than Llama 3's.
        "rotary_scaling": {
            "type": "llama3",
            "factor": backbone.rope_scale_factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "mapping": {"world_size": target.ranks, "tp_size": target.ranks, "pp_size": 1},
        "quantization": {
            "quant_algo": "FP8" if target.fp8 else None,
            "kv_cache_quant_algo": "FP8" if target.fp8 and target.fp8.kv else None,
        },
    }
