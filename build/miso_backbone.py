"""The backbone as a TensorRT-LLM model: packed embeddings in, the hidden state of each sequence's last position out.

This code has run against TensorRT-LLM's Python sources and TensorRT for RTX, never with its plugins: TensorRT-LLM could
not be installed on any machine so far. It follows TensorRT-LLM 1.2's own Llama (models/llama/model.py) and its
pipeline-parallel ranks, which read hidden states too. docs/engines-backbone.md has the results, and what to check first
on a GPU.

The stock Llama cannot be used: its first rank reads token ids, and an engine needs a value for unused inputs too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import tensorrt as trt
from tensorrt_llm._common import default_net
from tensorrt_llm._utils import str_dtype_to_trt
from tensorrt_llm.functional import Tensor, gather_last_token_logits
from tensorrt_llm.layers import (
    Attention,
    AttentionMaskType,
    AttentionParams,
    GatedMLP,
    KeyValueCacheParams,
    RmsNorm,
)
from tensorrt_llm.models import MODEL_MAP
from tensorrt_llm.models.generation_mixin import KVCacheType  # its module differs between releases
from tensorrt_llm.models.modeling_utils import DecoderLayerList, PretrainedConfig, PretrainedModel
from tensorrt_llm.module import Module
from tensorrt_llm.plugin import current_all_reduce_helper

from convert.backbone import ARCHITECTURE
from misotts.engines.tensorrt_llm.tables import INPUT, OUTPUT

CACHE_TABLES = (
    "past_key_value",
    "host_past_key_value_lengths",
    "host_max_attention_window_sizes",
    "host_sink_token_length",
    "kv_cache_block_offsets",
    "host_kv_cache_block_offsets",
    "host_kv_cache_pool_pointers",
    "host_kv_cache_pool_mapping",
    "cache_indirection",
)
ATTENTION_TABLES = (
    "sequence_length",
    "context_lengths",
    "host_context_lengths",
    "host_request_types",
    "host_runtime_perf_knobs",
    "host_context_progress",
)


class MisoLayer(Module):
    """A Llama layer. Attributes have the names of the checkpoint's tensors."""

    def __init__(self, config: PretrainedConfig, number: int) -> None:
        super().__init__()
        mapping = config.mapping
        parallel = dict(tp_group=mapping.tp_group, tp_size=mapping.tp_size, quant_mode=config.quant_mode)
        self.input_layernorm = _norm(config)
        self.attention = Attention(
            local_layer_idx=number,
            hidden_size=config.hidden_size,
            attention_head_size=config.head_size,
            num_attention_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            dtype=config.dtype,
            attention_mask_type=AttentionMaskType.causal,
            bias=False,
            position_embedding_type=config.position_embedding_type,
            rotary_embedding_base=config.rotary_base,
            rotary_embedding_scaling=config.rotary_scaling,
            tp_rank=mapping.tp_rank,
            **parallel,
        )
        self.mlp = GatedMLP(
            hidden_size=config.hidden_size,
            ffn_hidden_size=config.intermediate_size,
            hidden_act=config.hidden_act,
            dtype=config.dtype,
            bias=False,
            **parallel,
        )
        self.post_layernorm = _norm(config)

    def forward(self, hidden_states: Tensor, **attention: Any) -> tuple[Tensor, Any]:
        """Called by `DecoderLayerList` with `use_cache`, `attention_mask`, `kv_cache_params` and `attention_params`."""
        attended, presents = self.attention(self.input_layernorm(hidden_states), **attention)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_layernorm(hidden_states)), presents


class MisoTransformer(Module):
    """The layers and the final norm."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layers = DecoderLayerList(MisoLayer, config)
        self.ln_f = _norm(config)


class MisoBackbone(PretrainedModel):
    """The model class; `from_checkpoint` reads the checkpoint that `python -m convert backbone` writes."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.transformer = MisoTransformer(config)
        # DecoderModelForCausalLM does these two; attention needs them to find its table of sines.
        Attention.create_attention_const_params(self, config)
        self.position_embedding_type = config.position_embedding_type

    def prepare_inputs(
        self,
        max_batch_size: int,
        max_input_len: int,
        max_seq_len: int,
        max_num_tokens: int,
        opt_num_tokens: int,
        **others: Any,
    ) -> dict[str, Any]:
        """Declare the network's inputs. `others` are for beams, drafts, LoRA and logits, which are not used."""
        plugins, config, mapping = default_net().plugin_config, self.config, self.config.mapping
        profiles, ranges = self.get_profiles_ranges(
            max_batch_size=max_batch_size,
            max_beam_width=1,
            max_input_len=max_input_len,
            max_num_tokens=max_num_tokens,
            max_draft_len=0,
            opt_batch_size=0,
            opt_num_tokens=opt_num_tokens,
            enable_ctx_gen_opt_profiles=False,
            multiple_profiles=False,
            kv_cache_type=KVCacheType.PAGED,
        )
        hidden_states = Tensor(
            name=INPUT,
            dtype=str_dtype_to_trt(config.dtype),
            shape=[-1, config.hidden_size],
            dim_range=OrderedDict(
                num_tokens=ranges["num_tokens_range"],
                hidden_size=[config.hidden_size] * profiles,
            ),
        )
        last_token_ids = Tensor(
            name="last_token_ids",
            dtype=trt.int32,
            shape=[-1],
            dim_range=OrderedDict(batch_size_last_token_ids=ranges["bbd_range"]),
        )
        tables = self.prepare_attention_inputs(
            max_batch_size=max_batch_size,
            max_beam_width=1,
            max_input_len=max_input_len,
            max_seq_len=max_seq_len,
            num_kv_heads=config.num_key_value_heads,
            head_size=config.head_size,
            num_layers=config.num_hidden_layers,
            kv_dtype=str_dtype_to_trt(config.kv_dtype),
            kv_cache_type=KVCacheType.PAGED,
            num_profiles=profiles,
            remove_input_padding=True,
            use_gpt_attention_plugin=True,
            tokens_per_block=plugins.tokens_per_block,
            mapping=mapping,
        )
        if mapping.tp_size > 1:
            current_all_reduce_helper().set_workspace_tensor(mapping, profiles)
        attention = {name: tables[name] for name in ATTENTION_TABLES}
        return dict(
            hidden_states=hidden_states,
            last_token_ids=last_token_ids,
            kv_cache_params=KeyValueCacheParams(**{name: tables[name] for name in CACHE_TABLES}),
            attention_params=AttentionParams(max_context_length=max_input_len, **attention),
        )

    def forward(
        self,
        hidden_states: Tensor,
        last_token_ids: Tensor,
        kv_cache_params: KeyValueCacheParams,
        attention_params: AttentionParams,
    ) -> Tensor:
        """Mark the output `OUTPUT` [sequences, hidden size]."""
        attention_params = Attention.fill_attention_params(self, attention_params)
        hidden_states, _ = self.transformer.layers.forward(
            hidden_states, use_cache=True, kv_cache_params=kv_cache_params, attention_params=attention_params
        )
        # Rows are normalised independently: only those of the output need it.
        hidden_states = gather_last_token_logits(hidden_states, last_token_ids, True)  # True: packed
        hidden_states = self.transformer.ln_f(hidden_states)
        hidden_states.mark_output(OUTPUT, self.config.dtype)
        return hidden_states


def _norm(config: PretrainedConfig) -> RmsNorm:
    return RmsNorm(normalized_shape=config.hidden_size, eps=config.norm_epsilon, dtype=config.dtype)


# TensorRT-LLM looks up the checkpoint's architecture here (its issue 2430).
MODEL_MAP[ARCHITECTURE] = MisoBackbone
