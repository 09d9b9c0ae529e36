"""Make a small model folder like that of the 8B model: the demo's, which is trained, or one of random weights.

    python -m demo.model models/demo
    python -m demo.model --random models/random

Random weights speak noise and never end an utterance, which tests and benchmarks need; the seed determines them. Tests
and benchmarks also make weights of other sizes with these functions.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from demo.silentcipher.networks import PUBLISHED, Networks
from misotts.config import ModelConfig
from misotts.engines.compiled.library import library_fault
from misotts.model.atomic_folder import atomic_folder
from misotts.model.checkpoint import tensor_shapes
from misotts.model.meta_tokenizer import BOS, EOS, add_bos_and_eos, llama_tokenizer
from misotts.model.weight_files import save_weights

TEXT = Path(__file__).with_name("text.txt")

CONFIG = {
    "text_vocab_size": 1024,
    "audio_vocab_size": 2051,
    "audio_num_codebooks": 32,
    "backbone": dict(num_layers=4, embed_dim=128, num_heads=4, num_kv_heads=2, intermediate_dim=384),
    "decoder": dict(num_layers=2, embed_dim=64, num_heads=4, num_kv_heads=2, intermediate_dim=192),
    "mimi": {
        "seanet": {"dimension": 64, "n_filters": 8},
        "quantizer": {"dimension": 32, "input_dimension": 64, "output_dimension": 64},
        "transformer": {
            "d_model": 64,
            "num_heads": 4,
            "num_layers": 2,
            "dim_feedforward": 128,
            "input_dimension": 64,
            "output_dimensions": [64],
        },
    },
}

VOICE = Path(__file__).with_name("voice") / "weights"
"""Language model, codec, tokenizer and configuration that `demo.voice` trained."""

REGISTERED = VOICE.with_name("voices")
"""A folder of registered voices that comes with the demo."""

SILENTCIPHER = Path(__file__).with_name("silentcipher") / "weights"
"""SilentCipher weights trained on real speech by `demo.silentcipher.train`."""

ENCODER_WIDTH = 4


def make_demo(folder: Path) -> None:
    """Copy the demo model and its registered voices to `folder`, which appears complete or not at all; an existing one
    is replaced."""
    with atomic_folder(folder) as draft:
        shutil.copytree(VOICE, draft, dirs_exist_ok=True)
        shutil.copytree(SILENTCIPHER, draft / "silentcipher")
        shutil.copytree(REGISTERED, draft / "voices")


def make_random(folder: Path, seed: int = 0) -> None:
    """Write a model of random weights to `folder`, which appears complete or not at all; an existing one is replaced.
    Its watermark is the demo's."""
    torch.manual_seed(seed)
    with atomic_folder(folder) as draft:
        (draft / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
        config = ModelConfig.load(draft)
        make_tokenizer(config.text_vocab_size).save(str(draft / "tokenizer.json"))
        save_weights(draft / "model.safetensors", make_weights(config))
        save_weights(draft / "mimi.safetensors", make_mimi_weights(config))
        shutil.copytree(SILENTCIPHER, draft / "silentcipher")


def make_tokenizer(vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with Llama 3's split, BOS and EOS on `text.txt`."""
    tokenizer = llama_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.read_text(encoding="utf-8").splitlines(), trainer)
    add_bos_and_eos(tokenizer)
    return tokenizer


def make_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Return random weights at the scales of a trained network, so that signals neither vanish nor explode."""
    weights = {}
    for name, shape in tensor_shapes(config).items():
        if name.endswith("scale"):
            weights[name] = torch.ones(shape)
        elif "embeddings" in name:
            weights[name] = torch.randn(shape) * 0.2
        elif name == "audio_head":  # [codebooks - 1, width, codes]
            weights[name] = torch.randn(shape) * 2.0 * shape[1] ** -0.5
        else:
            weights[name] = torch.randn(shape) * (2.0 if "head" in name else 1.0) * shape[-1] ** -0.5
    return weights


def make_mimi_weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Return moshi's own initialisation, with filled codebooks and the last layer at the loudness of speech."""
    from misotts.mimi import build_mimi  # the other functions need no moshi

    mimi = build_mimi(config).eval()
    state = mimi.state_dict()
    for name, tensor in state.items():
        if name.endswith("embedding_sum"):
            tensor.normal_()
        elif name.endswith("_initialized"):
            tensor.fill_(1)
    codes = torch.randint(config.audio_codes, (1, config.audio_num_codebooks, 50))
    with torch.no_grad():
        last = [name for name in state if name.startswith("decoder.model.") and name.endswith("conv.weight")][-1]
        state[last.replace("weight", "bias")].zero_()
        state[last].mul_(0.06 / mimi.decode(codes).std())
    return {name: tensor.contiguous() for name, tensor in state.items()}


def make_silentcipher(folder: Path, width: int = ENCODER_WIDTH) -> None:
    """Write random SilentCipher weights of the published sizes at a smaller width (published: 32)."""
    widths = dict(enc_conv_dim=width, dec_c_conv_dim=3 * width, dec_m_conv_dim=4 * width, dec_m_n_layers=10)
    Networks(PUBLISHED | widths).save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="Folder to write. An existing one is replaced.")
    parser.add_argument("--random", action="store_true", help="Make random weights instead of the demo's voice.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random weights.")
    arguments = parser.parse_args()
    if arguments.random:
        make_random(arguments.folder, arguments.seed)
    else:
        make_demo(arguments.folder)
    if fault := library_fault():
        print(f"{fault}; the server will use PyTorch, which is about ten times slower")


if __name__ == "__main__":
    main()
