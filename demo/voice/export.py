"""From what has been trained so far to a model folder in f16, which the library loads like the 8B's."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from demo.model import SILENTCIPHER
from demo.voice import features, shaped, teacher
from demo.voice.codec import Decoder, Encoder, mimi_with, set_level
from demo.voice.codes import Codes
from demo.voice.sizes import CONFIG, model_config
from misotts.config import SAMPLE_RATE, TransformerConfig
from misotts.model.atomic_folder import atomic_folder
from misotts.model.checkpoint import tensor_shapes
from misotts.model.meta_tokenizer import BOS, EOS, add_bos_and_eos, byte_text, llama_tokenizer
from misotts.model.weight_files import save_weights
from misotts.prompt.voices import add_voice

SAMPLING = {"temperature": 0.5, "top_k": 20}
"""Sampling of a small model; the contract's defaults (0.9, 50) are those of a large one."""


VOICE_TEXT = (
    "Hello, I am a voice that comes with the demo. A request can name me, and then its sentence is spoken as I speak. "
    "There is fresh bread on the shelf, and the kettle is on."
)
"""The words of the registered voices."""


def export(work: Path, folder: Path) -> None:
    """Write the model folder, whole or not at all."""
    with atomic_folder(folder) as draft:
        config = CONFIG | {"sampling": SAMPLING}
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        make_tokenizer().save(str(draft / "tokenizer.json"))
        save_weights(draft / "model.safetensors", language_model(torch.load(work / "lm.pt")["kept"]))
        save_weights(draft / "mimi.safetensors", mimi(work, shaped.load_chunk(work, 0)))
        shutil.copytree(SILENTCIPHER, draft / "silentcipher")


def register_voices(folder: Path) -> None:
    """Write a folder of voices: a clip of the teacher in each of the two voices."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = teacher.Teacher()
    sentences = [f"{sentence}." for sentence in VOICE_TEXT.strip(".").split(". ")]
    speech = np.concatenate([engine.speak((sentence, sentence), with_audio=True).audio for sentence in sentences])
    for voice, name in enumerate(features.NAMES):
        with tempfile.TemporaryDirectory() as drafts:
            clip = Path(drafts) / "clip.flac"
            soundfile.write(clip, features.as_clip(shaped.change_voice(speech / 32768, voice)), SAMPLE_RATE)
            add_voice(folder, name, clip, VOICE_TEXT, replace=True)


def make_tokenizer() -> Tokenizer:
    """Return Llama 3's split and byte level without any merges: a token is a byte, and its number is the byte's."""
    tokenizer = llama_tokenizer(models.BPE({text: byte for byte, text in enumerate(byte_text())}, []))
    tokenizer.add_special_tokens([BOS, EOS])
    add_bos_and_eos(tokenizer)
    return tokenizer


def language_model(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trained weights by the checkpoint's names and in its layout, float16."""
    config = model_config()
    weights: dict[str, Tensor] = {}
    for part, sizes in (("backbone", config.backbone), ("decoder", config.depth)):
        for number in range(sizes.num_layers):
            weights |= _layer(state, f"{part}.layers.{number}", sizes)
        weights[f"{part}.norm.scale"] = state[f"{part}.norm.weight"]
    for name in tensor_shapes(config).keys() - weights.keys():
        weights[name] = state[name]
    return {name: tensor.half().contiguous() for name, tensor in weights.items()}


def _layer(state: dict[str, Tensor], prefix: str, sizes: TransformerConfig) -> dict[str, Tensor]:
    kv = sizes.num_kv_heads * sizes.head_dim
    q, k, v = state[f"{prefix}.qkv.weight"].split([sizes.embed_dim, kv, kv])
    gate, up = state[f"{prefix}.gate_up.weight"].chunk(2)
    return {
        f"{prefix}.attn.q_proj.weight": _interleaved(q, sizes.num_heads),
        f"{prefix}.attn.k_proj.weight": _interleaved(k, sizes.num_kv_heads),
        f"{prefix}.attn.v_proj.weight": v,
        f"{prefix}.attn.output_proj.weight": state[f"{prefix}.output.weight"],
        f"{prefix}.mlp.w1.weight": gate,
        f"{prefix}.mlp.w2.weight": state[f"{prefix}.down.weight"],
        f"{prefix}.mlp.w3.weight": up,
        f"{prefix}.sa_norm.scale": state[f"{prefix}.sa_norm.weight"],
        f"{prefix}.mlp_norm.scale": state[f"{prefix}.mlp_norm.weight"],
    }


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of half-split RoPE pairs → torchtune's interleaved ones: `rotary_halves` undone."""
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def mimi(work: Path, clips: shaped.Shaped | None = None) -> dict[str, Tensor]:
    """Mimi's weights, float16: the trained halves where there are any yet. Clips set its level, if they are given."""
    codes = Codes.load(work / "codes.pt")
    whole = mimi_with(codes)
    decoder, encoder = Decoder(whole), Encoder(whole)
    for name, half in (("decoder", decoder), ("encoder", encoder)):
        if (work / f"{name}.pt").exists():
            half.load_state_dict(torch.load(work / f"{name}.pt")["kept"])
    if clips:
        set_level(decoder, clips, codes)
    return {name: tensor.half().contiguous() for name, tensor in whole.state_dict().items()}
