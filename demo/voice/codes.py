"""The codec's codes in closed form, by principal components and k-means: they exist after minutes and never change.

Codebooks 1 to 31 quantise 64 principal components of a frame's numbers, each what the ones before left. Codebook 0
quantises what a small network needs to tell which sounds are in the frame: it carries what is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.voice.align import CLASSES, QUARTERS
from demo.voice.files import log, write_whole
from demo.voice.sizes import BINS, CODEBOOKS, LATENT, SEMANTIC

FAR = 8.0
"""All coordinates of code 0 of codebook 0: nothing is near it, so that 0 there means the end of speech."""


class Semantic(nn.Module):
    """Principal components of a frame and the one before → SEMANTIC numbers → the frame's sounds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2 * LATENT, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, SEMANTIC)
        )
        self.head = nn.Linear(SEMANTIC, QUARTERS * CLASSES)

    def forward(self, latent: Tensor, before: Tensor) -> Tensor:
        return F.normalize(self.body(torch.cat([latent, before], -1)), dim=-1) * SEMANTIC**0.5


@dataclass
class Codes:
    """All that is needed to turn numbers of frames into codes."""

    mean: Tensor
    """float32 [WIDTH]."""
    components: Tensor
    """float32 [WIDTH, LATENT]: numbers less their mean, times this, are latents of variance 1 on average."""
    books: Tensor
    """float32 [CODEBOOKS - 1, BINS, LATENT]."""
    semantic: Semantic
    semantic_book: Tensor
    """float32 [BINS, SEMANTIC]."""

    def latents(self, numbers: Tensor) -> Tensor:
        """float [frames, WIDTH] → float32 [frames, LATENT]."""
        return (numbers.float() - self.mean) @ self.components

    @torch.no_grad()
    def meanings(self, latents: Tensor) -> Tensor:
        """Latents of one clip → float32 [frames, SEMANTIC]."""
        return self.semantic(latents, torch.cat([latents[:1], latents[:-1]]))

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Latents of one clip, float32 [frames, LATENT] → codes, int64 [frames, CODEBOOKS]."""
        columns, rest = [nearest(self.meanings(latents), self.semantic_book)], latents
        for book in self.books:
            code = nearest(rest, book)
            rest = rest - book[code]
            columns.append(code)
        return torch.stack(columns, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [..., CODEBOOKS] → the latents that they stand for."""
        return sum((book[codes[..., n + 1]] for n, book in enumerate(self.books)), torch.zeros(1))

    def save(self, path: Path) -> None:
        with write_whole(path) as draft:
            torch.save({**self.__dict__, "semantic": self.semantic.state_dict()}, draft)

    @classmethod
    def load(cls, path: Path) -> Codes:
        raw = torch.load(path)
        semantic = Semantic()
        semantic.load_state_dict(raw.pop("semantic"))
        return cls(**raw, semantic=semantic.eval().requires_grad_(False))


def nearest(rows: Tensor, book: Tensor) -> Tensor:
    """The entry of `book` [entries, width] nearest to each row [rows, width] → int64 [rows]."""
    return (rows @ book.T - book.square().sum(1) / 2).argmax(1)


def k_means(rows: Tensor, entries: int, rounds: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm; an entry that has nothing near it starts anew at a random row."""
    book = rows[torch.randperm(len(rows), generator=generator)[:entries]].clone()
    for _ in range(rounds):
        code = nearest(rows, book)
        count = torch.bincount(code, minlength=entries)
        total = torch.zeros_like(book).index_add_(0, code, rows)
        alone = count < 1
        book = total / count.clamp(min=1)[:, None]
        book[alone] = rows[torch.randint(len(rows), (int(alone.sum()),), generator=generator)]
    return book


def fit(numbers: list[Tensor], sounds: list[Tensor], steps: int = 2500, rounds: int = 10) -> Codes:
    """Fit everything on clips: numbers float16 [frames, WIDTH] and sounds uint8 [frames, QUARTERS] each."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat(numbers).float()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((rows - mean).T))
    vectors, kept = vectors[:, -LATENT:].flip(1), values[-LATENT:]
    log(f"codes: {LATENT} components keep {kept.sum() / values.sum():.3f} of the variance of {len(rows)} frames")
    components = vectors / kept.mean().sqrt()
    latents = (rows - mean) @ components
    books, rest = [], latents.clone()
    for number in range(1, CODEBOOKS):
        books.append(k_means(rest, BINS, rounds, generator))
        rest -= books[-1][nearest(rest, books[-1])]
        if number in (1, 2, 4, 8, 16, 31):
            log(f"codes: what {number} books leave: {rest.square().mean() / latents.square().mean():.4f}")
    semantic, meanings = _fit_semantic(latents, torch.cat(sounds).long(), steps, generator)
    semantic_book = torch.cat([torch.full((1, SEMANTIC), FAR), k_means(meanings, BINS - 1, 3 * rounds, generator)])
    return Codes(mean, components, torch.stack(books), semantic, semantic_book)


def _fit_semantic(latents: Tensor, sounds: Tensor, steps: int, generator: torch.Generator) -> tuple[Semantic, Tensor]:
    torch.manual_seed(0)
    network = Semantic()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    before = torch.cat([latents[:1], latents[:-1]])
    for step in range(steps):
        batch = torch.randint(len(latents), (512,), generator=generator)
        meaning = network(latents[batch], before[batch])
        noisy = meaning + 0.3 * torch.randn(meaning.shape, generator=generator)
        told = network.head(noisy).view(-1, CLASSES)
        loss = F.cross_entropy(told, sounds[batch].view(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 499:
            right = (told.argmax(1) == sounds[batch].view(-1)).float().mean()
            log(f"codes: semantic step {step + 1}: loss {loss:.3f}, {right:.2f} of sounds right")
    network.eval().requires_grad_(False)
    return network, network(latents, before)
