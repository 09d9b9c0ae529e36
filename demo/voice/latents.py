"""From the teacher's latents straight to the codec's: what the teacher's slow half and the shaping of the voices would
come to, at hardly any cost. A small network learns it from the clips that have audio.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.voice.features import LATE, LEAD
from demo.voice.files import log, write_whole
from demo.voice.sizes import LATENT
from demo.voice.teacher import LATENT_WIDTH, TEACHER_HOP, TEACHER_RATE
from misotts.config import FRAME_SAMPLES, SAMPLE_RATE

SPAN = 12
"""The teacher's latents that a frame depends on, 139 ms."""


def windows(latent: np.ndarray, frames: int) -> Tensor:
    """The teacher's latents [latents, LATENT_WIDTH] around each frame, and where in between its middle is, and the
    clip's mean (its loudness depends on the whole): bfloat16 [frames, SPAN x LATENT_WIDTH + 1 + LATENT_WIDTH]."""
    middle = (np.arange(frames) + 0.5) * FRAME_SAMPLES - LATE - LEAD
    at = middle / SAMPLE_RATE * TEACHER_RATE / TEACHER_HOP
    first = np.floor(at).astype(int) - SPAN // 2 + 1
    padded = np.pad(latent, ((2 * SPAN, 5 * SPAN), (0, 0)))
    rows = padded[(first[:, None] + np.arange(SPAN) + 2 * SPAN).clip(0, len(padded) - 1)].reshape(frames, -1)
    mean = np.broadcast_to(latent.astype(np.float32).mean(0), (frames, LATENT_WIDTH))
    between = (at - np.floor(at))[:, None]
    return torch.from_numpy(np.concatenate([rows, between, mean], axis=1, dtype=np.float32)).bfloat16()


class Shortcut(nn.Module):
    """Windows of the teacher's latents → the codec's latents of both voices."""

    def __init__(self) -> None:
        super().__init__()
        width = (SPAN + 1) * LATENT_WIDTH + 1
        self.body = nn.Sequential(
            nn.Linear(width, 640), nn.GELU(), nn.Linear(640, 512), nn.GELU(), nn.Linear(512, 2 * LATENT)
        )

    def forward(self, rows: Tensor) -> Tensor:
        """bfloat16 [frames, ...] → float32 [frames, 2, LATENT]."""
        return self.body(rows).float().view(-1, 2, LATENT)


def train(rows: Tensor, latents: Tensor, voices: Tensor, steps: int = 4000) -> Shortcut:
    """Learn from frames: windows, latents float32 [frames, LATENT], voices int64 [frames]."""
    torch.manual_seed(0)
    network = Shortcut()
    optimizer = torch.optim.AdamW(network.parameters(), 1.5e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, steps, pct_start=0.1)
    held = len(rows) // 50
    for step in range(steps):
        batch = torch.randint(held, len(rows), (512,))
        with torch.autocast("cpu", torch.bfloat16):
            guess = network(rows[batch])
        loss = F.smooth_l1_loss(guess[torch.arange(len(batch)), voices[batch]], latents[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 499:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                guess = network(rows[:held])[torch.arange(held), voices[:held]]
            error = F.mse_loss(guess, latents[:held]) / latents[:held].square().mean()
            log(f"latents: step {step + 1}: loss {loss:.4f}, on clips not seen {error:.3f} of the variance")
    return network.eval().requires_grad_(False)


def save(network: Shortcut, path: Path) -> None:
    with write_whole(path) as draft:
        torch.save(network.state_dict(), draft)


def load(path: Path) -> Shortcut:
    network = Shortcut()
    network.load_state_dict(torch.load(path))
    return network.eval().requires_grad_(False).bfloat16()
