"""Transformers' `MimiModel` at the demo codec's sizes, with random weights."""

import torch
from transformers import MimiConfig, MimiModel


def make_mimi_peer() -> MimiModel:
    """Return the peer, with filled codebooks and scaled-up transformer layers, so that every tensor has an effect."""
    torch.manual_seed(0)
    peer = MimiModel(
        MimiConfig(
            num_filters=8,
            hidden_size=64,
            upsample_groups=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=16,
            intermediate_size=128,
            codebook_dim=32,
            vector_quantization_hidden_dimension=32,
            layer_scale_initial_scale=0.5,
        )
    )
    for name, tensor in peer.state_dict().items():
        if name.endswith("embed_sum"):
            tensor.normal_()
        elif name.endswith("cluster_usage"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("initialized"):
            tensor.fill_(1)
    return peer.eval().requires_grad_(False)
