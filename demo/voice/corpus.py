"""All clips as the language model and the codec see them: text, frames, codes, and what each frame says."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from demo.voice import align, latents, shaped, teacher
from demo.voice.codes import Codes, fit
from demo.voice.features import clip_frames
from demo.voice.files import log, write_whole
from misotts.config import SAMPLE_RATE

LEARN_LETTERS = 1500
"""Clips from which it is learnt which sounds go with which letters."""


def frames_of(clip: teacher.Spoken) -> int:
    samples = len(clip.latent) * teacher.TEACHER_HOP * SAMPLE_RATE / teacher.TEACHER_RATE
    return clip_frames(round(samples))


def fit_codes(work: Path, with_audio: int, semantic_steps: int, shortcut_steps: int) -> None:
    """Make `codes.pt`, `letters.npy` and `shortcut.pt` from the clips that have audio."""
    spoken = teacher.load_chunks(work, with_audio)
    letters = align.learn(spoken[:LEARN_LETTERS])
    with write_whole(work / "letters.npy") as draft:
        np.save(draft, letters)
    clips = shaped.load(work, with_audio)
    numbers = [torch.from_numpy(rows) for rows in clips.numbers]
    # The shaped clip's length is the rule; the count from the latents may be one off.
    heard = [align.hear(clip, letters, len(rows)) for clip, rows in zip(spoken, numbers, strict=True)]
    if (work / "codes.pt").exists():  # from `resume`
        codes = Codes.load(work / "codes.pt")
    else:
        codes = fit(numbers, [torch.from_numpy(h.sounds) for h in heard], semantic_steps)
        codes.save(work / "codes.pt")
    rows = torch.cat([latents.windows(clip.latent, len(n)) for clip, n in zip(spoken, numbers, strict=True)])
    voices = torch.cat([torch.full((len(n),), voice) for n, voice in zip(numbers, clips.voices, strict=True)])
    network = latents.train(rows, torch.cat([codes.latents(n) for n in numbers]), voices, shortcut_steps)
    latents.save(network, work / "shortcut.pt")


@dataclass
class Example:
    """A sentence in both voices."""

    text: str
    codes: np.ndarray
    """uint8 [2, frames, CODEBOOKS]."""
    latents: np.ndarray
    """float16 [2, frames, LATENT]."""
    sounds: np.ndarray
    """uint8 [frames, QUARTERS]."""
    first: np.ndarray
    last: np.ndarray
    """int16 [frames]: letters, as in `align.Heard`."""
    heard: tuple[int, np.ndarray] | None = None
    """A voice, and uint8 [frames, CODEBOOKS]: what Mimi's trained encoder hears in the clip's audio in that voice; None
    where there is no audio. Its errors are part of every context, so the language model learns from them."""


def encode_chunk(work: Path, number: int, codes: Codes, shortcut: latents.Shortcut, letters: np.ndarray) -> None:
    examples = []
    for clip in teacher.load(work / "clips" / f"{number:04d}.npz", with_audio=False):
        frames = frames_of(clip)
        both = shortcut(latents.windows(clip.latent, frames)).transpose(0, 1).contiguous()
        coded = torch.stack([codes.encode(voice.float()) for voice in both]).to(torch.uint8)
        heard = align.hear(clip, letters, frames)
        examples.append(
            Example(clip.written, coded.numpy(), both.half().numpy(), heard.sounds, heard.first, heard.last)
        )
    with write_whole(work / "coded" / f"{number:04d}.pickle") as draft:
        pickle.dump([vars(example) for example in examples], draft)


def encode_all(work: Path, chunks: int) -> None:
    """Make the coded form of every chunk that is there and has none yet."""
    codes, shortcut = Codes.load(work / "codes.pt"), latents.load(work / "shortcut.pt")
    letters = np.load(work / "letters.npy")
    for number in range(chunks):
        made, from_ = work / "coded" / f"{number:04d}.pickle", work / "clips" / f"{number:04d}.npz"
        if from_.exists() and not made.exists():
            encode_chunk(work, number, codes, shortcut, letters)
            log(f"encode: chunk {number} of {chunks}")


def load_examples(work: Path, chunks: dict[str, list[Example]]) -> list[Example]:
    """Return the examples of coded chunks that are not among `chunks` yet, and add them there; chunks that have been
    listened to since then get what was heard."""
    new = []
    for path in sorted((work / "coded").glob("*.pickle")):
        if path.stem not in chunks:
            chunks[path.stem] = [Example(**raw) for raw in pickle.loads(path.read_bytes())]
            new += chunks[path.stem]
    for path in (work / "heard").glob("*.npz"):
        examples = chunks.get(path.stem, [])
        if examples and examples[0].heard is None:
            with np.load(path) as arrays:
                clips = np.split(arrays["codes"], arrays["frames"].cumsum()[:-1])
            for number, (example, codes) in enumerate(zip(examples, clips, strict=True)):
                example.heard = shaped.voice_of(number), codes
    return new
