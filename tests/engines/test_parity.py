"""With the same weights, Transformers' CSM and our engines compute the same frames and logits."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.csm_peer import make_peer
from demo.model import make_weights
from misotts.config import MASKED, ModelConfig
from misotts.engines.eager import depth as torch_depth
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Sampling
from misotts.engines.sampling import sample
from tests.support.csm_peer import peer_frames

FRAMES = 64
BFLOAT16_FRAMES = 24
"""Fewer, because bfloat16 is slow on the CPU."""

SHAPES = {
    # the demo model's
    "even": dict(
        audio_num_codebooks=32,
        backbone=dict(num_layers=4, embed_dim=128, num_heads=4, num_kv_heads=2, intermediate_dim=384),
        decoder=dict(num_layers=2, embed_dim=64, num_heads=4, num_kv_heads=2, intermediate_dim=192),
    ),
    # the heads of llama-300M, in both transformers; backbone and decoder of one width
    "24 heads": dict(
        audio_num_codebooks=5,
        backbone=dict(num_layers=2, embed_dim=1536, num_heads=24, num_kv_heads=6, intermediate_dim=512),
        decoder=dict(num_layers=2, embed_dim=1536, num_heads=24, num_kv_heads=6, intermediate_dim=768),
    ),
    # few codebooks; as many key heads as query heads, then one for all
    "few codebooks": dict(
        audio_num_codebooks=3,
        backbone=dict(num_layers=3, embed_dim=96, num_heads=3, num_kv_heads=3, intermediate_dim=160),
        decoder=dict(num_layers=1, embed_dim=64, num_heads=4, num_kv_heads=1, intermediate_dim=96),
    ),
    # head size 128 as in llama-8B; a decoder wider than the backbone
    "wide decoder": dict(
        audio_num_codebooks=8,
        backbone=dict(num_layers=2, embed_dim=256, num_heads=2, num_kv_heads=1, intermediate_dim=512),
        decoder=dict(num_layers=3, embed_dim=384, num_heads=6, num_kv_heads=2, intermediate_dim=512),
    ),
    # the widths of llama-8B and llama-300M, one layer of each
    "8B, one layer each": dict(
        audio_num_codebooks=32,
        backbone=dict(num_layers=1, embed_dim=4096, num_heads=32, num_kv_heads=8, intermediate_dim=14336),
        decoder=dict(num_layers=1, embed_dim=1536, num_heads=24, num_kv_heads=6, intermediate_dim=6912),
    ),
}

PROMPTS = {
    # (positions, True if they are audio), one after the other
    "text": [(12, False)],
    "audio context": [(9, False), (40, True), (15, False)],
    "long": [(60, False), (700, True), (50, False), (800, True), (120, False)],
}


def make_config(shape: str) -> ModelConfig:
    return ModelConfig.from_dict(dict(text_vocab_size=512, audio_vocab_size=2051, **SHAPES[shape]))


def make_prompt(config: ModelConfig, parts: list[tuple[int, bool]], seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    found = []
    for length, is_audio in parts:
        part = np.full((length, config.frame_columns), MASKED, np.int32)
        if is_audio:  # its last frame is of zeros
            part[:, :-1] = random.integers(0, config.audio_codes, (length, config.audio_num_codebooks))
            part[-1, :-1] = 0
        else:
            part[:, -1] = random.integers(0, config.text_vocab_size, length)
        found.append(part)
    return np.concatenate(found)


@dataclass(frozen=True)
class OurFrame:
    codes: np.ndarray
    logits: torch.Tensor
    """[codebooks, codes that are audio]."""


def our_frames(
    weights: dict[str, torch.Tensor],
    config: ModelConfig,
    prompt: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    forced: np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[OurFrame]:
    """Yield the frames after `prompt`, greedy or `forced`, with the logits that `sample` gets."""
    columns = config.max_seq_len // 32
    embedding = Embedding(weights, config, dtype=dtype)
    backbone = TorchBackbone(weights, config, num_blocks=1 + columns, dtype=dtype)
    depth = TorchDepth(weights, config, embedding, dtype=dtype)
    seen: list[torch.Tensor] = []

    def spy(logits: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(logits[0].float())
        sampled = sample(logits, *rest)
        return sampled if forced is None else torch.tensor([int(forced[frame][len(seen) - 1])])

    monkeypatch.setattr(torch_depth, "sample", spy)
    inputs, start = embedding.prompt(torch.from_numpy(prompt.astype(np.int64))), 0
    noise = torch.zeros(1, config.audio_num_codebooks, 1)
    greedy = Sampling(temperature=torch.ones(1), top_k=torch.ones(1, dtype=torch.int64), noise=noise)
    blocks = np.arange(1, 1 + columns, dtype=np.int32)[None]
    frame = 0
    while forced is None or frame < len(forced):
        seen.clear()
        batch = Batch(inputs, np.array([len(inputs)], np.int32), np.array([start], np.int32), blocks)
        codes, next_inputs = depth.forward(backbone.forward(batch), greedy)
        yield OurFrame(codes[0].numpy(), torch.stack(seen))
        inputs, start, frame = next_inputs, start + len(inputs), frame + 1


@pytest.mark.parametrize(
    ("shape", "prompt_kind"),
    [
        ("even", "text"),
        ("even", "long"),
        ("24 heads", "audio context"),
        ("few codebooks", "audio context"),
        ("few codebooks", "long"),
        ("wide decoder", "audio context"),
    ],
)
def test_greedy_frames_are_the_peers(shape: str, prompt_kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(shape, prompt_kind, FRAMES, monkeypatch)


@pytest.mark.slow
def test_one_layer_of_the_8b_model_at_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    compare("8B, one layer each", "audio context", 2, monkeypatch)


def compare(shape: str, prompt_kind: str, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(shape)
    torch.manual_seed(1)
    weights = make_weights(config)
    prompt = make_prompt(config, PROMPTS[prompt_kind])
    theirs = list(islice(peer_frames(make_peer(weights, config), config, prompt), frames))
    ours = list(islice(our_frames(weights, config, prompt, monkeypatch), frames))
    distance = max(float((a.logits - b.logits).abs().max()) for a, b in zip(ours, theirs, strict=True))
    scale = max(float(frame.logits.abs().max()) for frame in theirs)
    margin = min(float(top[:, 0].sub(top[:, 1]).min()) for f in theirs for top in [f.logits.topk(2).values])
    print(
        f"{shape}, {prompt_kind}: logits within {distance:.1e} of +-{scale:.1f}, likeliest codes lead by {margin:.1e}"
    )
    assert np.array_equal([f.codes for f in ours], [f.codes.numpy() for f in theirs])
    assert len({tuple(f.codes) for f in ours}) > frames // 2, "the frames repeat: nothing was compared"
    assert distance < 1e-4


def test_bfloat16_errs_no_more_than_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both run in bfloat16 over the float32 frames; their likeliest codes and logits are compared with float32's."""
    config = make_config("even")
    torch.manual_seed(1)
    weights = make_weights(config)
    prompt = make_prompt(config, PROMPTS["audio context"])
    exact = list(islice(our_frames(weights, config, prompt, monkeypatch), BFLOAT16_FRAMES))
    forced = np.stack([frame.codes for frame in exact])
    truth = torch.stack([frame.logits for frame in exact])
    peer = make_peer(weights, config).bfloat16()
    theirs = torch.stack([frame.logits for frame in peer_frames(peer, config, prompt, forced)])
    half = our_frames(weights, config, prompt, monkeypatch, forced, torch.bfloat16)
    ours = torch.stack([frame.logits for frame in half])

    def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.argmax(-1) == b.argmax(-1)).float().mean())

    def error(logits: torch.Tensor) -> float:
        return float((logits - truth).square().mean().sqrt())

    print(
        f"same likeliest code as float32: ours {agreement(ours, truth):.4f}, peer {agreement(theirs, truth):.4f}; "
        f"as each other {agreement(ours, theirs):.4f}; error of the logits: ours {error(ours):.4f}, "
        f"peer {error(theirs):.4f}, of a spread of {float(truth.std()):.2f}"
    )
    assert agreement(ours, truth) > agreement(theirs, truth) - 0.02
    assert agreement(ours, theirs) > 0.96
    assert error(ours) < 1.1 * error(theirs)
