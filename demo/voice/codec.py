"""Mimi around the codes: its tables set, its decoder half and its encoder half trained, each on its own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.voice import latents, shaped, teacher
from demo.voice.codes import Codes
from demo.voice.features import LATE, LOUDNESS, loudness
from demo.voice.files import CpuClock, log, write_whole
from demo.voice.losses import Critics, spectral_loss
from demo.voice.sizes import CODEBOOKS, LATENT, SEMANTIC, model_config
from misotts.config import FRAME_SAMPLES
from misotts.mimi import build_mimi, encode

FRAMES = 20
"""Frames of a training piece; the first UNJUDGED are only there to be listened to, but at a clip's start."""
UNJUDGED = 2
BATCH = 8
SAVE_EVERY = 100
AVERAGE = 0.998
"""Share of the running average of the weights that each step keeps; the average is what is exported."""


def mimi_with(codes: Codes) -> Any:
    """Mimi at random but for its tables: the codes, and the projections that lead the encoder's two halves to them."""
    mimi: Any = build_mimi(model_config())  # its parts are typed as anything that torch has
    first, rest = mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest
    with torch.no_grad():
        tables = [F.pad(codes.semantic_book, (0, LATENT - SEMANTIC)), *codes.books]
        for layer, table in zip([*first.vq.layers, *rest.vq.layers], tables, strict=True):
            layer._codebook.embedding_sum.copy_(table)
            layer._codebook.cluster_usage.fill_(1)
            layer._codebook._initialized.fill_(1)
        rest.input_proj.weight.copy_(torch.eye(LATENT, 2 * LATENT)[..., None])
        first.input_proj.weight.copy_(torch.eye(2 * LATENT)[LATENT:, :, None])
    return mimi


@dataclass
class Pieces:
    """The shaped clips, ready to be cut."""

    audio: list[Tensor]
    """int16 [frames x FRAME_SAMPLES] each."""
    codes: list[Tensor]
    """uint8 [2, frames + 1, CODEBOOKS] each: from the audio itself and by the shortcut, both with the end frame."""
    latents: list[Tensor]
    """float16 [frames, LATENT] each."""


def load_pieces(work: Path, with_audio: int, codes: Codes) -> Pieces:
    clips, shortcut = shaped.load(work, with_audio), latents.load(work / "shortcut.pt")
    spoken = teacher.load_chunks(work, with_audio)
    pieces = Pieces([], [], [])
    for audio, numbers, voice, clip in zip(clips.audio, clips.numbers, clips.voices, spoken, strict=True):
        own = codes.latents(torch.from_numpy(numbers))
        short = shortcut(latents.windows(clip.latent, len(own)))[:, voice]
        both = torch.stack([codes.encode(own), codes.encode(short)])
        pieces.audio.append(torch.from_numpy(audio))
        pieces.codes.append(F.pad(both, (0, 0, 0, 1)).to(torch.uint8))
        pieces.latents.append(own.half())
    return pieces


def late(audio: Tensor) -> Tensor:
    """A clip as the decoder says it: LATE samples later, float32, with a silent frame for the end frame."""
    return F.pad(audio.float() / 32767, (LATE, FRAME_SAMPLES - LATE))


class Decoder(nn.Module):
    """Mimi's decoder half as it is trained: it may be given only the first codebooks."""

    def __init__(self, mimi: Any) -> None:
        super().__init__()
        self.first_projection, self.rest_projection = (
            mimi.quantizer.rvq_first.output_proj,
            mimi.quantizer.rvq_rest.output_proj,
        )
        self.upsample, self.transformer, self.decoder = mimi.upsample, mimi.decoder_transformer, mimi.decoder
        layers = [*mimi.quantizer.rvq_first.vq.layers, *mimi.quantizer.rvq_rest.vq.layers]
        self.tables = torch.stack([layer._codebook.embedding for layer in layers])

    def trained(self) -> list[nn.Parameter]:
        parts = (self.first_projection, self.rest_projection, self.upsample, self.transformer, self.decoder)
        return [weight for part in parts for weight in part.parameters()]

    def forward(self, codes: Tensor, books: Tensor) -> Tensor:
        """Codes int64 [rows, frames, CODEBOOKS], codebooks to use int64 [rows] → audio float32 [rows, samples]."""
        entries = self.tables[torch.arange(CODEBOOKS), codes]
        used = torch.arange(CODEBOOKS) < books[:, None]
        entries = entries * used[:, None, :, None]
        first, rest = entries[:, :, 0].transpose(1, 2), entries[:, :, 1:].sum(2).transpose(1, 2)
        with torch.autocast("cpu", torch.bfloat16):
            latent = self.upsample(self.first_projection(first) + self.rest_projection(rest))
            (latent,) = self.transformer(latent)
            return self.decoder(latent)[:, 0].float()


def cut(pieces: Pieces, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch: codes int64 [BATCH, FRAMES, CODEBOOKS], how many of them to use, int64 [BATCH], audio [BATCH, samples],
    and where it is judged, float [BATCH, samples]."""
    rows = []
    for _ in range(BATCH):
        n = int(torch.randint(len(pieces.audio), (), generator=generator))
        frames = pieces.codes[n].shape[1]
        chance, source, place = torch.rand(3, generator=generator).tolist()
        start = 0 if chance < 0.15 else int(place * max(1, frames - FRAMES + 1))
        codes = pieces.codes[n][int(source < 0.5), start : start + FRAMES].long()
        audio = late(pieces.audio[n])[start * FRAME_SAMPLES : (start + FRAMES) * FRAME_SAMPLES]
        judged = torch.ones(len(codes) * FRAME_SAMPLES)
        if start:
            judged[: UNJUDGED * FRAME_SAMPLES] = 0
        missing = FRAMES - len(codes)
        rows.append(
            (F.pad(codes, (0, 0, 0, missing)), *(F.pad(t, (0, missing * FRAME_SAMPLES)) for t in (audio, judged)))
        )
    codes, audio, judged = (torch.stack(column) for column in zip(*rows, strict=True))
    few = torch.randint(4, CODEBOOKS + 1, (BATCH,), generator=generator)
    books = torch.where(torch.rand(BATCH, generator=generator) < 0.4, few, CODEBOOKS)
    return codes, books, audio, judged


def average_into(kept: dict[str, Tensor], module: nn.Module, step: int) -> None:
    keep = min(AVERAGE, (step + 1) / (step + 10))
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            kept[name].lerp_(value, 1 - keep)


def start_from(path: Path, module: nn.Module) -> None:
    """Load the weights that `resume.restore` wrote, if it did."""
    if path.exists():
        module.load_state_dict(torch.load(path))


def train_decoder(work: Path, with_audio: int, steps: int, polish: int) -> None:
    """Train for `steps`, then `polish` steps against critics; goes on where it was stopped."""
    torch.manual_seed(0)
    codes = Codes.load(work / "codes.pt")
    pieces = load_pieces(work, with_audio, codes)
    decoder = Decoder(mimi_with(codes).train())
    start_from(work / "decoder-start.pt", decoder)
    optimizer = torch.optim.AdamW(decoder.trained(), 1.5e-3, betas=(0.8, 0.99), weight_decay=1e-3)
    critics = Critics()
    critic_optimizer = torch.optim.AdamW(critics.parameters(), 1e-3, betas=(0.8, 0.99))
    kept = copy.deepcopy(decoder.state_dict())
    path, start, clock = work / "decoder.pt", 0, CpuClock(0)
    if path.exists():
        saved = torch.load(path)
        start = saved["step"]
        decoder.load_state_dict(saved["decoder"])
        critics.load_state_dict(saved["critics"])
        optimizer.load_state_dict(saved["optimizer"])
        clock = CpuClock(saved["cpu_seconds"])
        kept = saved["kept"]
    seen: list[float] = []
    for step in range(start, steps + polish):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps) if step < steps else 3e-4 * (1 - (step - steps) / polish) + 1e-5
        generator = torch.Generator().manual_seed(step)
        codes_in, books, audio, judged = cut(pieces, generator)
        guess = decoder(codes_in, books) * judged
        audio = audio * judged
        loss, mel = spectral_loss(guess, audio)
        if step >= steps:
            critic_optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                critics.teach(guess, audio, step).backward()
            critic_optimizer.step()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss + critics.judge(guess, audio, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.trained(), 5.0)
        optimizer.step()
        average_into(kept, decoder, step)
        seen.append(float(mel))
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps + polish:
            log(f"decoder: step {step + 1} of {steps} + {polish}: log-mel {np.mean(seen[-SAVE_EVERY:]):.3f}")
            with write_whole(path) as draft:
                state = dict(
                    step=step + 1,
                    cpu_seconds=clock.seconds(),
                    decoder=decoder.state_dict(),
                    critics=critics.state_dict(),
                )
                torch.save({**state, "optimizer": optimizer.state_dict(), "kept": kept}, draft)


@torch.no_grad()
def set_level(decoder: Decoder, clips: shaped.Shaped, codes: Codes) -> None:
    """Scale the last layer in place: clips become as loud as the teacher's, as the losses leave them too quiet."""
    speech = []
    for numbers in clips.numbers:
        coded = F.pad(codes.encode(codes.latents(torch.from_numpy(numbers))), (0, 0, 0, 1))
        speech.append(decoder(coded[None], torch.tensor([CODEBOOKS])).numpy())
    gain = 1.0
    for _ in range(5):  # a louder clip has more samples that are audible
        gain *= LOUDNESS / float(np.median([loudness(gain * clip) for clip in speech]))
    for weight in decoder.decoder.model[-1].parameters():
        weight.mul_(gain)
    log(f"level: the last layer times {gain:.3f}")


def rate(step: int, steps: int, top: float = 1.5e-3, warm_up: int = 100) -> float:
    """A learning rate: a short rise, then a cosine to nearly nothing."""
    if step < warm_up:
        return top * (step + 1) / warm_up
    return top * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))))


class Encoder(nn.Module):
    """Mimi's encoder half: audio float32 [rows, samples] → latents [rows, frames, LATENT] and what book 0 quantises
    [rows, frames, SEMANTIC]."""

    def __init__(self, mimi: Any) -> None:
        super().__init__()
        self.encoder, self.transformer, self.downsample = mimi.encoder, mimi.encoder_transformer, mimi.downsample

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            (hidden,) = self.transformer(self.encoder(audio[:, None]))
            out = self.downsample(hidden).transpose(1, 2).float()
        return out[..., :LATENT], out[..., LATENT : LATENT + SEMANTIC]


def train_encoder(work: Path, with_audio: int, steps: int) -> None:
    """Teach the encoder half the latents, by regression; goes on where it was stopped."""
    torch.manual_seed(0)
    codes = Codes.load(work / "codes.pt")
    clips = shaped.load(work, with_audio)
    found = [codes.latents(torch.from_numpy(numbers)) for numbers in clips.numbers]
    encoder = Encoder(mimi_with(codes).train())
    start_from(work / "encoder-start.pt", encoder)
    optimizer = torch.optim.AdamW(encoder.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=1e-3)
    kept = copy.deepcopy(encoder.state_dict())
    path, start, clock = work / "encoder.pt", 0, CpuClock(0)
    if path.exists():
        saved = torch.load(path)
        start, kept = saved["step"], saved["kept"]
        encoder.load_state_dict(saved["encoder"])
        optimizer.load_state_dict(saved["optimizer"])
        clock = CpuClock(saved["cpu_seconds"])
    seen: list[tuple[float, float]] = []
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, 2e-3)
        rng = np.random.default_rng(step)
        audio, truth, meaning, judged = zip(*(_heard(rng, clips, found, codes) for _ in range(BATCH)), strict=True)
        latent, semantic = encoder(torch.stack(audio))
        weight = torch.stack(judged)[..., None]
        errors = [((a - torch.stack(b)).square() * weight).sum() / weight.sum() / a.shape[-1]
                  for a, b in ((latent, truth), (semantic, meaning))]  # fmt: skip
        optimizer.zero_grad()
        (errors[0] + 0.5 * errors[1]).backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        average_into(kept, encoder, step)
        seen.append((errors[0].item(), errors[1].item()))
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            mean = np.mean(seen[-SAVE_EVERY:], axis=0)
            log(f"encoder: step {step + 1} of {steps}: errors {mean[0]:.3f} and {mean[1]:.3f} of variance 1")
            with write_whole(path) as draft:
                state = dict(step=step + 1, cpu_seconds=clock.seconds(), encoder=encoder.state_dict(), kept=kept)
                torch.save({**state, "optimizer": optimizer.state_dict()}, draft)


def _heard(
    rng: np.random.Generator, clips: shaped.Shaped, found: list[Tensor], codes: Codes
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A piece: audio [samples], latents and book 0's numbers of its frames, and which frames are judged."""
    n = int(rng.integers(len(found)))
    frames = len(found[n])
    start = 0 if rng.random() < 0.15 else int(rng.integers(max(1, frames - FRAMES + 1)))
    own = found[n][start : start + FRAMES]
    missing = FRAMES - len(own)
    audio = torch.from_numpy(clips.audio[n][start * FRAME_SAMPLES : (start + FRAMES) * FRAME_SAMPLES]) / 32767
    judged = torch.ones(FRAMES)
    judged[: UNJUDGED if start else 0] = 0
    judged[len(own) :] = 0
    meaning = codes.meanings(own)
    pad = (0, 0, 0, missing)
    return F.pad(audio, (0, missing * FRAME_SAMPLES)), F.pad(own, pad), F.pad(meaning, pad), judged


def listen(work: Path, with_audio: int) -> None:
    """Write what the trained encoder hears in each clip that has audio: codes, as the server would make them."""
    mimi = mimi_with(Codes.load(work / "codes.pt")).eval()
    Encoder(mimi).load_state_dict(torch.load(work / "encoder.pt")["kept"])
    for number in range(with_audio):
        path = work / "heard" / f"{number:04d}.npz"
        if path.exists():
            continue
        clips = shaped.load_chunk(work, number)
        heard = [encode(mimi, audio.astype(np.float32) / 32767).astype(np.uint8) for audio in clips.audio]
        with write_whole(path) as draft:
            np.savez(draft, codes=np.concatenate(heard), frames=np.array([len(codes) for codes in heard]))
        log(f"listen: chunk {number} of {with_audio}")
