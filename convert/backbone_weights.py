"""The backbone's tensors with the names, shapes and splits of TensorRT-LLM, as a mapping for each rank.

Names are those of its Llama (models/llama/convert.py and docs/source/legacy/architecture/model-weights-loader.md):
`fc` is the gate and `gate` is the up projection. Matrices are [out, in]. q and k are permuted for half-split RoPE
(`rope_gpt_neox`), as NVIDIA's loader of Meta's weights does. Tensor parallelism splits q, k and v by heads, `fc` and
`gate` by rows, `dense` and `proj` by columns; norms are on every rank; key heads are repeated where there are fewer of
them than ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from convert.fp8 import Fp8, quantize, weight_scale
from misotts.config import ConfigError, TransformerConfig
from misotts.engines.transformer import rotary_halves
from misotts.model.weight_files import CheckpointError

Weights = Mapping[str, torch.Tensor]

MATRICES = {
    "attention.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    "attention.dense": ("attn.output_proj",),
    "mlp.fc": ("mlp.w1",),
    "mlp.gate": ("mlp.w3",),
    "mlp.proj": ("mlp.w2",),
}
"""A layer's matrices, and the checkpoint's matrices in each."""

BY_COLUMNS = ("attention.dense", "mlp.proj")
"""Matrices that are split by columns; the others are split by rows."""

NORMS = {"input_layernorm": "sa_norm", "post_layernorm": "mlp_norm"}

ONE_SCALE = {"mlp.fc": ("mlp.w1", "mlp.w3"), "mlp.gate": ("mlp.w1", "mlp.w3")}
"""Matrices with a common scale: TensorRT-LLM fuses the two, and would round both again if their scales differed."""


class RankWeights(Mapping[str, torch.Tensor]):
    """One rank's tensors in `dtype`, each computed at its access. Weights on the meta device give tensors on the meta
    device: names, shapes and types of a checkpoint, without its memory."""

    def __init__(
        self,
        weights: Weights,
        config: TransformerConfig,
        dtype: torch.dtype,
        ranks: int,
        rank: int,
        fp8: Fp8 | None = None,
    ) -> None:
        """Split for tensor parallelism over `ranks`. With `fp8` the matrices are float8_e4m3fn, and the mapping also
        has their scales and those of their inputs: numbers of `dtype`, stored as float32.

        Raises:
            ConfigError: the heads or the feed-forward width cannot be split over `ranks`.
        """
        check_split(config, ranks)
        self._weights, self._config, self._dtype = weights, config, dtype
        self._ranks, self._rank, self._fp8 = ranks, rank, fp8
        self._scales: dict[tuple[str, ...], torch.Tensor] = {}
        self._make: dict[str, Callable[[], torch.Tensor]] = {}
        for n in range(config.num_layers):
            self._add_layer(f"transformer.layers.{n}", f"backbone.layers.{n}", n)
        self._make["transformer.ln_f.weight"] = partial(self._read, "backbone.norm.scale", dtype)

    def _add_layer(self, ours: str, source: str, number: int) -> None:
        for name, norm in NORMS.items():
            self._make[f"{ours}.{name}.weight"] = partial(self._read, f"{source}.{norm}.scale", self._dtype)
        for name, parts in MATRICES.items():
            sources = [f"{source}.{part}.weight" for part in parts]
            if self._fp8 is None:
                self._make[f"{ours}.{name}.weight"] = partial(self._matrix, name, sources, self._dtype)
                continue
            scaled = tuple(f"{source}.{part}.weight" for part in ONE_SCALE.get(name, parts))
            self._make[f"{ours}.{name}.weight"] = partial(self._quantized, name, sources, scaled)
            self._make[f"{ours}.{name}.weights_scaling_factor"] = partial(self._scale, scaled)
            self._make[f"{ours}.{name}.activation_scaling_factor"] = partial(
                self._fp8.input_scale, number, name, self._dtype
            )
        if self._fp8 is not None and self._fp8.kv:
            self._make[f"{ours}.attention.kv_cache_scaling_factor"] = partial(self._fp8.kv_scale, number)

    def _read(
        self, name: str, dtype: torch.dtype, part: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Read a tensor of the source, or only a part of it."""
        source = self._weights[name]
        tensor = (part(source) if part else source).to(dtype)
        if not tensor.is_meta and not tensor.isfinite().all():
            raise CheckpointError(f"{name} holds NaN, infinity, or a number too large for {dtype}")
        return tensor

    def _matrix(self, name: str, sources: list[str], dtype: torch.dtype) -> torch.Tensor:
        """Return this rank's part of a matrix."""
        if name == "attention.qkv":
            return torch.cat([self._heads(source, dtype) for source in sources])
        (source,) = sources
        along = 1 if name in BY_COLUMNS else 0
        return self._read(source, dtype, lambda whole: whole.chunk(self._ranks, dim=along)[self._rank])

    def _heads(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return this rank's heads of a q, k or v projection [heads * head_dim, width]."""
        heads = self._config.num_heads if "q_proj" in name else self._config.num_kv_heads
        first, mine = self._rank * heads // self._ranks, max(heads // self._ranks, 1)
        weight = self._read(
            name, dtype, lambda whole: whole.view(heads, -1, whole.shape[1])[first : first + mine].flatten(0, 1)
        )
        return weight if "v_proj" in name else rotary_halves(weight, mine)

    def _quantized(self, name: str, sources: list[str], scaled: tuple[str, ...]) -> torch.Tensor:
        return quantize(self._matrix(name, sources, torch.float32), self._scale(scaled))

    def _scale(self, scaled: tuple[str, ...]) -> torch.Tensor:
        """Return the scale that all of `scaled` share, on all ranks."""
        if scaled not in self._scales:
            self._scales[scaled] = weight_scale((self._read(name, torch.float32) for name in scaled), self._dtype)
        return self._scales[scaled]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._make[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)


def check_split(config: TransformerConfig, ranks: int) -> None:
    """Check that a transformer can be split over `ranks`.

    Raises:
        ConfigError: names the size that cannot be split.
    """
    for name in ("num_heads", "intermediate_dim"):
        if getattr(config, name) % ranks:
            raise ConfigError(f"{name} {getattr(config, name)} cannot be split over {ranks} ranks")
    if config.num_kv_heads % ranks and ranks % config.num_kv_heads:
        raise ConfigError(f"num_kv_heads {config.num_kv_heads} can neither be split over nor repeated on {ranks} ranks")
