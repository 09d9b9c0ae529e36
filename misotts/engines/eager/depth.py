"""The depth decoder in plain PyTorch: a hidden state in, one frame and the backbone's next input out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from misotts.config import ModelConfig
from misotts.engines.eager.layers import RMSNorm, load_layers, pad_rows, stable_rows
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Sampling
from misotts.engines.sampling import sample
from misotts.engines.transformer import rope_table
from misotts.model.weight_files import Weights


class TorchDepth:
    """Codebook-0 head, then one pass of the small transformer for each further codebook."""

    def __init__(self, weights: Weights, config: ModelConfig, embedding: Embedding) -> None:
        """Read the weights, in the embedding's type and to its device. The heads keep only the rows of codes that are
        audio, so no other code can be sampled."""
        device, dtype = embedding.audio_table.device, embedding.audio_table.dtype
        self.config = config.depth
        self.codebooks = config.audio_num_codebooks
        self._embedding = embedding
        self._layers = load_layers(weights, "decoder", self.config, device, dtype)
        self._norm = RMSNorm(weights["decoder.norm.scale"].to(device=device, dtype=dtype), self.config.norm_eps)
        self._head0 = weights["codebook0_head.weight"][: config.audio_codes].to(device=device, dtype=dtype)
        heads = weights["audio_head"][:, :, : config.audio_codes].transpose(1, 2)
        self._heads = heads.to(device=device, dtype=dtype).contiguous()  # [codebooks - 1, codes, width]
        self._projection = weights["projection.weight"].to(device=device, dtype=dtype)
        matrices = [*self._layers[0].matrices, self._head0, self._heads[0], self._projection]
        self._row_tile = stable_rows(matrices)
        # A code's projected embedding depends on (codebook, code) alone: one table instead of 31 products a frame.
        tables = embedding.audio_table.split(config.audio_vocab_size)[:-1]
        self._inputs = [F.linear(table, self._projection) for table in tables]
        self._cos, self._sin = (t.to(device=device, dtype=dtype) for t in rope_table(self.config, self.codebooks))

    @torch.inference_mode()
    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Depth.forward`."""
        n = hidden.shape[0]
        hidden = pad_rows(hidden, self._row_tile)
        sampled = [self._sample(F.linear(hidden, self._head0)[:n], sampling, 0)]
        x = torch.stack([F.linear(hidden, self._projection), self._input(sampled[0], 0)], dim=1)
        c = self.config
        # Keys, then values, of each layer; all are written before they are read.
        cache = list(self._head0.new_empty(2 * c.num_layers, len(hidden), c.num_kv_heads, self.codebooks, c.head_dim))
        for codebook in range(1, self.codebooks):
            x = self._transform(x, cache, last=codebook)
            logits = F.linear(x, self._heads[codebook - 1])
            sampled.append(self._sample(logits[:n], sampling, codebook))
            if codebook < self.codebooks - 1:
                x = self._input(sampled[-1], codebook).unsqueeze(1)
        codes = torch.stack(sampled, dim=1)
        return codes, self._embedding.audio(codes)

    @staticmethod
    def _sample(logits: torch.Tensor, sampling: Sampling, codebook: int) -> torch.Tensor:
        return sample(logits, sampling.temperature, sampling.top_k, sampling.noise[:, codebook])

    def _input(self, codes: torch.Tensor, codebook: int) -> torch.Tensor:
        """Projected embeddings of `codes` [n], padded."""
        return pad_rows(self._inputs[codebook].index_select(0, codes), self._row_tile)

    def _transform(self, x: torch.Tensor, cache: list[torch.Tensor], last: int) -> torch.Tensor:
        """Run x [rows, positions, width], which ends at position `last`; return the last position's state."""
        end = last + 1
        first = end - x.shape[1]
        cos, sin = (t[first:end].unsqueeze(1) for t in (self._cos, self._sin))
        for layer, keys, values in zip(self._layers, cache[::2], cache[1::2], strict=True):
            q, k, v = layer.split_heads(x, cos, sin, self.config)
            keys[:, :, first:end] = k.transpose(1, 2)
            values[:, :, first:end] = v.transpose(1, 2)
            attended = F.scaled_dot_product_attention(
                q.transpose(1, 2), keys[:, :, :end], values[:, :, :end], is_causal=first == 0, enable_gqa=True
            )
            x = layer.merge(x, attended.transpose(1, 2).flatten(2))
        return self._norm(x[:, -1])
