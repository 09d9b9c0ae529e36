"""With the same weights, Transformers' CSM and our engines compute the same frames and logits."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.csm_peer import make_peer
from demo.model import make_weights
from misotts.config import MASKED, ModelConfig, TransformerConfig
from misotts.engines.eager import depth as torch_depth
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Sampling
from misotts.engines.sampling import sample
from tests.support.csm_peer import Frame, peer_frames

BFLOAT16_FRAMES = 24
"""Few, because bfloat16 is slow on the CPU."""

SHAPES: dict[str, tuple[int, TransformerConfig, TransformerConfig]] = {
    # Codebooks, backbone and depth decoder: each has layers, width, heads, key heads and inner width.
    # the random model's
    "even": (32, TransformerConfig(4, 128, 4, 2, 384), TransformerConfig(2, 64, 4, 2, 192)),
    # the heads of llama-300M, in both transformers; backbone and decoder of one width
    "24 heads": (5, TransformerConfig(2, 1536, 24, 6, 512), TransformerConfig(2, 1536, 24, 6, 768)),
    # few codebooks; as many key heads as query heads, then one for all
    "few codebooks": (3, TransformerConfig(3, 96, 3, 3, 160), TransformerConfig(1, 64, 4, 1, 96)),
    # head size 128 as in llama-8B; a decoder wider than the backbone
    "wide decoder": (8, TransformerConfig(2, 256, 2, 1, 512), TransformerConfig(3, 384, 6, 2, 512)),
    # the widths of llama-8B and llama-300M, one layer of each
    "8B, one layer each": (32, TransformerConfig(1, 4096, 32, 8, 14336), TransformerConfig(1, 1536, 24, 6, 6912)),
}

PROMPTS = {
    # (positions, True if they are audio), one after the other
    "text": [(12, False)],
    "audio context": [(9, False), (40, True), (15, False)],
    "long": [(60, False), (700, True), (50, False), (800, True), (120, False)],
}


def make_config(shape: str) -> ModelConfig:
    return ModelConfig(512, 2051, *SHAPES[shape])


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


def our_frames(
    weights: dict[str, torch.Tensor],
    config: ModelConfig,
    prompt: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    forced: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Frame]:
    """Yield the frames after `prompt`, greedy or `forced`, with the logits that `sample` gets."""
    columns = config.max_seq_len // 32
    embedding = Embedding(weights, config, dtype=dtype)
    backbone = TorchBackbone(weights, config, num_blocks=1 + columns, dtype=dtype)
    depth = TorchDepth(weights, config, embedding)
    seen: list[torch.Tensor] = []

    def spy(logits: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(logits[0].float())
        sampled = sample(logits, *rest)
        return sampled if forced is None else forced[frame, len(seen) - 1].view(1)

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
        yield Frame(codes[0], torch.stack(seen))
        inputs, start, frame = next_inputs, start + len(inputs), frame + 1


@pytest.mark.parametrize(
    ("shape", "prompt_kind", "frames"),
    [
        ("even", "text", 64),
        ("even", "long", 64),
        ("24 heads", "audio context", 24),
        ("few codebooks", "audio context", 64),
        ("few codebooks", "long", 64),
        ("wide decoder", "audio context", 64),
        pytest.param("8B, one layer each", "audio context", 2, marks=pytest.mark.slow),
    ],
)
def test_greedy_frames_are_the_peers(
    shape: str, prompt_kind: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert [f.codes.tolist() for f in ours] == [f.codes.tolist() for f in theirs]
    assert len({str(f.codes) for f in ours}) > frames // 2, "the frames repeat: nothing was compared"
    assert distance < 1e-4


def test_bfloat16_errs_no_more_than_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both run in bfloat16 over the float32 frames; their likeliest codes and logits are compared with float32's."""
    config = make_config("even")
    torch.manual_seed(1)
    weights = make_weights(config)
    prompt = make_prompt(config, PROMPTS["audio context"])
    exact = list(islice(our_frames(weights, config, prompt, monkeypatch), BFLOAT16_FRAMES))
    forced = torch.stack([frame.codes for frame in exact])
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
