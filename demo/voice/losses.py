"""The distance of two pieces of audio: spectra at several sizes, and networks that tell them apart."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from misotts.config import SAMPLE_RATE

SIZES = (256, 512, 1024, 2048)
MEL_SIZES = (512, 1024, 2048)
MEL_BANDS = 64
FLOOR = 0.02


def spectrum(audio: Tensor, size: int) -> Tensor:
    """Audio [rows, samples] → complex [rows, size / 2 + 1, windows]."""
    return torch.stft(audio, size, size // 4, window=_hann(size), center=False, return_complex=True)


@cache
def _hann(size: int) -> Tensor:
    return torch.hann_window(size)


@cache
def _mel(size: int) -> Tensor:
    """float32 [MEL_BANDS, size / 2 + 1]: triangles that each sum to 1."""
    edges = 700 * (torch.linspace(0, torch.log1p(torch.tensor(11_000 / 700)).item(), MEL_BANDS + 2).exp() - 1)
    hertz = torch.arange(size // 2 + 1) * SAMPLE_RATE / size
    low, centre, high = (edge[:, None] for edge in (edges[:-2], edges[1:-1], edges[2:]))
    # A triangle is at least one bin wide, or the lowest would catch nothing.
    low, high = torch.minimum(low, centre - SAMPLE_RATE / size), torch.maximum(high, centre + SAMPLE_RATE / size)
    bank = torch.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clamp(min=0)
    return bank / bank.sum(1, keepdim=True).clamp(min=1e-6)


def spectral_loss(guess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of audio [rows, samples], and the part of it that is read: the difference of log-mel spectra."""
    loss, mels = guess.new_zeros(()), guess.new_zeros(())
    for size in SIZES:
        scale = (1024 / size) ** 0.5
        a, b = (spectrum(audio, size).abs() * scale for audio in (guess, truth))
        loss = loss + (_log(a) - _log(b)).abs().mean() + 0.5 * (a - b).norm() / b.norm().clamp(min=1)
        if size in MEL_SIZES:
            mels = mels + (_log(_mel(size) @ a) - _log(_mel(size) @ b)).abs().mean()
    return loss + mels, mels.detach() / len(MEL_SIZES)


def _log(magnitude: Tensor) -> Tensor:
    return magnitude.clamp(min=FLOOR).log()


class Critic(nn.Module):
    """Tells real audio from made audio by its complex spectrum at one size."""

    def __init__(self, size: int, width: int = 16) -> None:
        super().__init__()
        self.size = size
        shapes = [((3, 9), (1, 1)), ((3, 9), (1, 2)), ((3, 9), (1, 2)), ((3, 3), (1, 1))]
        self.layers = nn.ModuleList(
            nn.Conv2d(width if n else 2, width, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2))
            for n, (kernel, stride) in enumerate(shapes)
        )
        self.last = nn.Conv2d(width, 1, (3, 3), padding=1)

    def forward(self, audio: Tensor) -> list[Tensor]:
        """Return the output of each layer for audio [rows, samples]; the last is the verdict."""
        spectra = spectrum(audio, self.size) * (1024 / self.size) ** 0.5
        length = spectra.abs().clamp(min=1e-3)
        spectra = spectra / length * length.sqrt()
        x = torch.view_as_real(spectra).permute(0, 3, 2, 1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.last(x)]


class Critics(nn.Module):
    """One of them is asked at a time: all three would be most of a step's cost."""

    def __init__(self) -> None:
        super().__init__()
        self.critics = nn.ModuleList(Critic(size) for size in (512, 1024, 2048))

    def teach(self, guess: Tensor, truth: Tensor, which: int) -> Tensor:
        """The critic's own loss."""
        critic = self.critics[which % len(self.critics)]
        return F.relu(1 - critic(truth)[-1]).mean() + F.relu(1 + critic(guess.detach())[-1]).mean()

    def judge(self, guess: Tensor, truth: Tensor, which: int) -> Tensor:
        """Return the loss of the decoder: the verdict, and the differences of the layers' outputs."""
        critic = self.critics[which % len(self.critics)]
        made = critic(guess)
        with torch.no_grad():
            real = critic(truth)
        same = sum((a - b).abs().mean() / b.abs().mean() for a, b in zip(made[:-1], real[:-1], strict=True))
        return len(self.critics) * (0.7 * same - 0.3 * made[-1].mean())
