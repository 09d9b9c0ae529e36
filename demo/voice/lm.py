"""The language model as it is trained: backbone and depth decoder over padded rows, with the same tensors as a model
folder holds, and heads and losses that only the training needs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.voice.align import CLASSES, QUARTERS
from demo.voice.batches import Batch
from demo.voice.sizes import LATENT, model_config
from misotts.config import TransformerConfig
from misotts.engines.transformer import rope_table, rotate

CONFIG = model_config()
GUIDED = (1, 2, 3)
"""Layers with a first head that learns to look at the letters of the frame before, of the frame to come, and ahead."""
SOUNDS_FROM = 2
"""The layer with the output from which sounds are told early."""
DROP = (0.0, *[0.1] * 3, *[0.3] * 4, *[0.6] * (CONFIG.audio_num_codebooks - 8))
"""Share of the codes without their embedding in training, by codebook. Otherwise the model learns clips by heart: the
sum of 32 fine codes is a fingerprint."""
DROP_FRAME = 0.05
WEIGHTS = (*[1.0] * 8, *[0.6] * 8, *[0.35] * (CONFIG.audio_num_codebooks - 17))
"""Weights of the losses of codebooks 1 and on."""
SHORT_DEPTH = 12
"""Most frames of which the depth decoder learns are only learnt to this codebook."""


class Layer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, heads = config.embed_dim, config.num_heads + 2 * config.num_kv_heads
        self.config = config
        self.sa_norm, self.mlp_norm = nn.RMSNorm(width, config.norm_eps), nn.RMSNorm(width, config.norm_eps)
        self.qkv = nn.Linear(width, heads * config.head_dim, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * config.intermediate_dim, bias=False)
        self.down = nn.Linear(config.intermediate_dim, width, bias=False)
        for last in (self.output, self.down):
            nn.init.normal_(last.weight, std=0.3 * last.weight.shape[1] ** -0.5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [rows, positions, width] → the same, and the first head's queries and keys [rows, positions, head_dim]."""
        c = self.config
        qkv = self.qkv(self.sa_norm(x)).unflatten(-1, (-1, c.head_dim))
        q, k, v = qkv.split([c.num_heads, c.num_kv_heads, c.num_kv_heads], dim=2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        x = x + self.output(_attend(q, k, v))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up), (q[:, :, 0], k[:, :, 0])


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q [rows, positions, heads, head_dim] → [rows, positions, width]. By hand: at these lengths
    PyTorch's own kernel takes several times as long backwards."""
    rows, positions, heads, head_dim = q.shape
    shared = heads // k.shape[2]
    # Query heads that share a key head become rows of one product.
    q = q.unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4).reshape(-1, shared * positions, head_dim)
    k, v = (t.transpose(1, 2).reshape(-1, positions, head_dim) for t in (k, v))
    scores = torch.bmm(q * head_dim**-0.5, k.transpose(1, 2)).unflatten(1, (shared, positions))
    future = torch.full((positions, positions), -torch.inf, dtype=scores.dtype).triu(1)
    weights = (scores + future).softmax(-1).to(v.dtype)
    out = torch.bmm(weights.flatten(1, 2), v).view(rows, -1, shared, positions, head_dim)
    return out.permute(0, 3, 1, 2, 4).reshape(rows, positions, heads * head_dim)


class Transformer(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, config: TransformerConfig, positions: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.embed_dim, config.norm_eps)
        cos, sin = rope_table(config, positions)
        self.register_buffer("cos", cos[:, None], persistent=False)
        self.register_buffer("sin", sin[:, None], persistent=False)


class LanguageModel(nn.Module):
    offsets: Tensor
    """int64 [codebooks]: where each one's codes begin in `audio_embeddings`."""

    def __init__(self) -> None:
        super().__init__()
        width, inner, codes = CONFIG.backbone.embed_dim, CONFIG.depth.embed_dim, CONFIG.audio_vocab_size
        books = CONFIG.audio_num_codebooks
        self.text_embeddings = nn.Embedding(CONFIG.text_vocab_size, width)
        self.audio_embeddings = nn.Embedding(books * codes, width)
        self.backbone = Transformer(CONFIG.backbone, CONFIG.max_seq_len)
        self.decoder = Transformer(CONFIG.depth, books)
        self.projection = nn.Linear(width, inner, bias=False)
        self.codebook0_head = nn.Linear(width, codes, bias=False)
        self.audio_head = nn.Parameter(torch.randn(books - 1, inner, codes) * 0.5 * inner**-0.5)
        nn.init.normal_(self.text_embeddings.weight, std=0.3)
        nn.init.normal_(self.audio_embeddings.weight, std=0.08)
        nn.init.normal_(self.codebook0_head.weight, std=0.5 * width**-0.5)
        # For the training only.
        self.latent_head = nn.Linear(width, LATENT)
        self.sounds_head = nn.Linear(width, QUARTERS * CLASSES)
        self.early_sounds_head = nn.Linear(width, QUARTERS * CLASSES)
        self.register_buffer("offsets", torch.arange(books) * codes, persistent=False)

    def embed(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """The backbone's input, float32 [rows, positions, width], with what `DROP` says left out."""
        codes = batch.codes
        weights = torch.ones(codes.shape)
        if generator is not None:
            drop = torch.tensor(DROP)
            kept = torch.rand(codes.shape, generator=generator) >= drop
            whole = torch.rand(len(codes), 1, generator=generator) >= DROP_FRAME
            weights = kept / (1 - drop) * whole
        audio = F.embedding_bag(
            codes + self.offsets, self.audio_embeddings.weight, mode="sum", per_sample_weights=weights
        )
        rows, positions = batch.shape
        x = torch.zeros(rows * positions, audio.shape[1])
        x = x.index_copy(0, batch.text_at, self.text_embeddings(batch.text)).index_copy(0, batch.audio_at, audio)
        return x.view(rows, positions, -1)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The losses of a batch, each a mean; with a generator the input is noisy."""
        x = self.embed(batch, generator)
        cos, sin = self.backbone.cos[: batch.shape[1]], self.backbone.sin[: batch.shape[1]]
        losses, guidance = {}, []
        sounds = batch.sounds.flatten()
        for number, layer in enumerate(self.backbone.layers):
            x, (q, k) = layer(x, cos, sin)
            if number in GUIDED:
                guidance.append(_guide(q, k, batch, number - GUIDED[0]))
            if number == SOUNDS_FROM:
                early = self.early_sounds_head(x.flatten(0, 1)[batch.predicts][batch.speech])
                losses["early sounds"] = F.cross_entropy(early.float().view(-1, CLASSES), sounds)
        hidden = self.backbone.norm(x).flatten(0, 1)[batch.predicts]
        losses["guidance"] = torch.stack(guidance).mean()
        losses["book 0"] = F.cross_entropy(self.codebook0_head(hidden).float(), batch.targets[:, 0])
        speech = hidden[batch.speech]
        losses["latents"] = F.smooth_l1_loss(self.latent_head(speech).float(), batch.latents)
        losses["sounds"] = F.cross_entropy(self.sounds_head(speech).float().view(-1, CLASSES), sounds)
        losses |= self._depth(hidden, batch)
        return losses

    def _depth(self, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss of codebooks 1 and on, over the frames that the batch has chosen for it."""
        total, count, few = hidden.new_zeros(()), 0.0, {}
        for chosen, books in ((batch.depth_short, SHORT_DEPTH), (batch.depth_long, CONFIG.audio_num_codebooks - 1)):
            if not len(chosen):
                continue
            targets = batch.targets[chosen]
            codes = self.audio_embeddings(targets[:, :books] + self.offsets[:books])
            x = self.projection(torch.cat([hidden[chosen][:, None].to(codes.dtype), codes], 1)).float()
            for layer in self.decoder.layers:
                x, _ = layer(x, self.decoder.cos[: books + 1], self.decoder.sin[: books + 1])
            x = self.decoder.norm(x)[:, 1:].transpose(0, 1)
            logits = torch.bmm(x.to(torch.bfloat16), self.audio_head[:books].to(torch.bfloat16)).float()
            loss = F.cross_entropy(logits.transpose(1, 2), targets[:, 1 : books + 1].T, reduction="none").mean(1)
            total = total + (loss * torch.tensor(WEIGHTS[:books])).sum() * len(chosen)
            count += sum(WEIGHTS[:books]) * len(chosen)
            few = {"book 1": loss[0].detach(), "book 4": loss[3].detach(), "book 10": loss[9].detach()}
        return {"depth": total / max(count, 1.0), **few}


def _guide(q: Tensor, k: Tensor, batch: Batch, which: int) -> Tensor:
    """Minus the log of the share of attention that goes where it should, over the positions that predict speech."""
    _, positions = batch.shape
    scores = (q @ k.transpose(1, 2)).float() * q.shape[-1] ** -0.5
    hidden = torch.ones(positions, positions, dtype=torch.bool).triu(1)
    scores = scores.masked_fill(hidden, -1e4).flatten(0, 1)[batch.predicts]
    first, last = batch.look[which].unbind(1)
    column = torch.arange(positions)
    outside = (column < first[:, None]) | (column > last[:, None])
    looks = first >= 0
    mass = scores.masked_fill(outside, -1e4).logsumexp(1) - scores.logsumexp(1)
    return -(mass * looks).sum() / looks.sum().clamp(min=1)
