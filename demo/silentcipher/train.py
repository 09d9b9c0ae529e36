"""Train a small SilentCipher on real speech: `python -m demo.silentcipher.train FOLDER`.

Training has the lookahead, the delay and the unmarked columns of the watermark stage, random symbols, the mark at
MisoTTS's 36 dB below the speech, and distortions between embedding and detection. These include real codecs, with a
gradient of 1.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from demo.silentcipher import distortions
from demo.silentcipher.networks import PUBLISHED, Networks
from demo.silentcipher.speech import speech
from misotts.config import FRAME_SAMPLES
from misotts.watermark.silentcipher import SPEECH_POWER

HPARAMS: dict[str, Any] = PUBLISHED | {
    "SR": 24_000,
    "N_FFT": 960,
    "HOP_LENGTH": 480,
    "message_band_size": 192,  # up to 4.8 kHz
    "message_sdr": 36,
    # Not in the published file: layer widths (a quarter of the published ones), and a short delay.
    "enc_conv_dim": 8,
    "dec_c_conv_dim": 24,
    "dec_m_conv_dim": 32,
    "dec_m_n_layers": 6,
    "lookahead": 0,
    "delay_frames": 0,
}
SECONDS_OF_SPEECH = 900
CLIPS, COLUMNS = 4, 64
STEPS, STOP = 4_500, 3_500
"""The schedule's length, and the step at which the training of the committed weights stopped."""
FIRST_SDR = 14.0
DISTORTED = [
    distortions.resampled_16k,
    distortions.mu_law_8k,
    distortions.mp3_128k,
    distortions.opus_32k,
    distortions.noise_30_db,
]


@dataclass(frozen=True)
class Schedule:
    """The difficulty of the task during training; `progress` goes from 0 to 1."""

    sdr: float
    """Level of the mark below the speech at the end, in dB."""

    def sdr_at(self, progress: float) -> float:
        return FIRST_SDR + (self.sdr - FIRST_SDR) * min(progress / 0.4, 1)

    def distorted_at(self, progress: float) -> float:
        """Share of clips that are distorted."""
        return 0.7 * min(max((progress - 0.1) / 0.4, 0), 1)


class Clips:
    """Random pieces of speech at random loudness and pitch in batches, and their distortions."""

    def __init__(self, audio: np.ndarray, hparams: dict[str, Any], seed: int) -> None:
        self._audio, self._hop = audio, hparams["HOP_LENGTH"]
        self._per_frame = FRAME_SAMPLES // self._hop
        self._rng = np.random.default_rng(seed)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return audio [clips, samples], and symbols and mask [clips, columns]."""
        samples = (COLUMNS - 1) * self._hop
        clips = np.stack([self._clip(samples) for _ in range(CLIPS)])
        symbols = torch.from_numpy(self._rng.integers(0, 5, (CLIPS, COLUMNS)))
        column = np.arange(COLUMNS) + self._rng.integers(0, self._per_frame, (CLIPS, 1))
        no_delay = self._rng.random((CLIPS, 1)) < 0.7
        mask = torch.from_numpy(~((column % self._per_frame == 0) & no_delay))
        return torch.from_numpy(clips), symbols, mask

    def _clip(self, samples: int) -> np.ndarray:
        speed = self._rng.choice([0.8, 0.9, 1.0, 1.1, 1.25])
        need = int(samples * speed) + 2
        at = self._rng.integers(0, len(self._audio) - need)
        piece = self._audio[at : at + need]
        if speed != 1:  # another pitch
            piece = np.interp(np.arange(samples) * speed, np.arange(need), piece)
        piece = piece[:samples]
        loudness = SPEECH_POWER**0.5 * 10 ** (self._rng.normal(0, 3) / 20)
        return (piece * (loudness / max(np.sqrt(np.mean(piece**2)), 1e-3))).astype(np.float32)

    def distort(self, marked: torch.Tensor, share: float) -> torch.Tensor:
        out = []
        for clip in marked:
            if self._rng.random() < share:
                kind = DISTORTED[self._rng.integers(len(DISTORTED))]
                plain = clip.detach().numpy()
                changed = kind(plain * np.float32(0.3), self._rng) / np.float32(0.3)  # speech peaks at about 0.5
                clip = clip + torch.from_numpy(changed.astype(np.float32) - plain)
            out.append(clip * float(10 ** (self._rng.normal(0, 2) / 20)))
        return torch.stack(out)

    def offset(self) -> int:
        """Return the shift of the detector's columns from the embedder's, in samples."""
        return int(self._rng.integers(-self._hop // 6, self._hop // 6 + 1))


def train(folder: Path, cache: Path, steps: int, stop: int, seed: int, one_batch: bool) -> None:
    torch.manual_seed(seed)
    networks = Networks(HPARAMS)
    schedule = Schedule(HPARAMS["message_sdr"])
    clips = Clips(speech("train", SECONDS_OF_SPEECH, cache), HPARAMS, seed)
    optimizer = torch.optim.Adam(networks.parameters(), lr=2e-3, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1, final_div_factor=100)
    hop = HPARAMS["HOP_LENGTH"]
    started, seen, right, losses = time.monotonic(), 0, 0, 0.0
    batch = clips.batch()
    for step in range(stop):
        progress = step / steps
        if step == int(0.75 * steps):  # from here on with the statistics of deployment
            for module in networks.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        if not one_batch:
            batch = clips.batch()
        audio, symbols, mask = batch
        marked = audio + networks.mark(audio, symbols, mask, schedule.sdr_at(progress))
        offset = clips.offset()
        heard = clips.distort(marked[:, hop + offset : -hop], 0 if one_batch else schedule.distorted_at(progress))
        logits = networks.read(heard)
        counted = slice(2, logits.shape[2] - 2)
        wanted, there = symbols[:, 1:][:, counted], mask[:, 1:][:, counted]
        wanted = torch.where(there, wanted, -100)
        loss = F.cross_entropy(logits[:, :, counted], wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        rate.step()
        seen += int(there.sum())
        right += int(((logits[:, :, counted].argmax(1) == wanted) & there).sum())
        losses += loss.item()
        if (step + 1) % 50 == 0:
            minutes = (time.monotonic() - started) / 60
            print(
                f"step {step + 1}/{steps}  {minutes:.1f} min  {schedule.sdr_at(progress):.0f} dB  "
                f"distorted {schedule.distorted_at(progress):.2f}  loss {losses / 50:.3f}  symbols {right / seen:.3f}",
                flush=True,
            )
            seen, right, losses = 0, 0, 0.0
            networks.save(folder)
    networks.save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="Folder for hparams.yaml, enc_c.ckpt, dec_c.ckpt and dec_m_0.ckpt.")
    parser.add_argument("--cache", type=Path, default=Path("out/speech"), help="Folder for the speech.")
    parser.add_argument("--steps", type=int, default=STEPS, help="Length of the schedule.")
    parser.add_argument("--stop", type=int, default=STOP, help="Stop after this step of the schedule.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-batch", action="store_true", help="Overfit one batch, to check the code.")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    stop = min(arguments.stop, arguments.steps)
    train(arguments.folder, arguments.cache, arguments.steps, stop, arguments.seed, arguments.one_batch)


if __name__ == "__main__":
    main()
