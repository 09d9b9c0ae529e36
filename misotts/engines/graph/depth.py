"""The depth decoder of the graph engine: a hidden state in, one frame and the backbone's next input out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from misotts.config import ModelConfig
from misotts.engines.embedding import Embedding
from misotts.engines.graph.layers import load_layers
from misotts.engines.graph.matrix import Matrix
from misotts.engines.graph.operations import Operations
from misotts.engines.interface import Sampling
from misotts.engines.table import WeightType
from misotts.engines.transformer import rope_table
from misotts.model.weight_files import Weights


class GraphDepth:
    """See `Depth`."""

    def __init__(
        self,
        weights: Weights,
        config: ModelConfig,
        embedding: Embedding,
        run: Operations,
        weight_type: WeightType = "full",
    ) -> None:
        """Read the weights, in the embedding's type and to its device. The heads have only the rows of codes that are
        audio, and stay in that type: they are a tenth of the bytes that a frame reads, and decide the codes."""
        device, dtype = embedding.audio_table.device, embedding.audio_table.dtype
        self.config = config.depth
        self.codebooks, self._vocabulary = config.audio_num_codebooks, config.audio_vocab_size
        self._embedding, self.run = embedding, run
        self.layers = load_layers(weights, "decoder", self.config, device, dtype, weight_type)
        self._head0 = Matrix.make(weights["codebook0_head.weight"][: config.audio_codes].to(device), dtype)
        norm = weights["decoder.norm.scale"].to(device)
        heads = weights["audio_head"][:, :, : config.audio_codes].transpose(1, 2)
        self._heads = [Matrix.make(head.to(device), dtype, norm=norm) for head in heads]
        self._projection = Matrix.make(weights["projection.weight"].to(device), dtype)
        tables = embedding.audio_table.split(config.audio_vocab_size)[:-1]
        self._inputs = [F.linear(table, self._projection.weight) for table in tables]
        self._cos, self._sin = (t.to(device) for t in rope_table(self.config, self.codebooks))

    @torch.inference_mode()
    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Depth.forward`. Reads no value on the host."""
        run, n = self.run, len(hidden)
        code, following = self._sample(run.linear(hidden, self._head0), sampling, 0)
        sampled = [code]
        assert following is not None
        x = torch.stack([run.linear(hidden, self._projection), following], dim=1).flatten(0, 1)
        c = self.config
        caches = hidden.new_empty(c.num_layers, 2, n, c.num_kv_heads, self.codebooks, c.head_dim)
        for codebook in range(1, self.codebooks):
            x = self._transform(x, caches, first=codebook + 1 - len(x) // n)
            logits = run.linear(x.view(n, -1, x.shape[1])[:, -1].contiguous(), self._heads[codebook - 1], c.norm_eps)
            code, following = self._sample(logits, sampling, codebook)
            sampled.append(code)
            if following is not None:
                x = following
        codes = torch.stack(sampled, dim=1)
        return codes, run.embed_frames(codes, self._embedding.audio_table, self._vocabulary)

    def _sample(
        self, logits: torch.Tensor, sampling: Sampling, codebook: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sample codes [n] of a codebook; return them and, if another codebook follows, their projected embeddings."""
        table = self._inputs[codebook] if codebook < self.codebooks - 1 else None
        return self.run.sample(logits, sampling.temperature, sampling.top_k, sampling.noise[:, codebook], table)

    def _transform(self, x: torch.Tensor, caches: torch.Tensor, first: int) -> torch.Tensor:
        """Run all layers over x [n * positions, width], the positions from `first` on."""
        run, eps = self.run, self.config.norm_eps
        for layer, (keys, values) in zip(self.layers, caches, strict=True):
            qkv = run.linear(x, layer.qkv, eps)
            attended = run.depth_attention(qkv, keys, values, self._cos, self._sin, first)
            x = layer.merge(run, x, attended, eps)
        return x
