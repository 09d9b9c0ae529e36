"""Section `frames`: compares the device with the eager engines in float32 on the CPU, on the demo's shapes.

Both get the same weights and inputs, so a difference is the device's or the engine's. In float32 nearly all codes must
be equal: a code can differ only where two codes are equally likely to the sixth digit. In bfloat16 hidden states must
be within a few per cent. The share of equal codes is lower there: after the first code that differs, the rest of the
frame is another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.costs.engines import ENGINES, Engines, make_engines, speak
from benchmarks.costs.section import Section
from benchmarks.costs.sizes import TOY
from demo.model import make_weights
from misotts.config import MASKED
from misotts.engines.interface import Batch, Limits, Sampling
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.sampling import gumbel_noise
from misotts.generate.utterance import Utterance
from misotts.order import Order

STREAMS, FRAMES, NUM_BLOCKS = 5, 12, 64
TOP_K = 50


@dataclass(frozen=True)
class Bound:
    """The limits of a number format."""

    hidden: float
    """Largest relative error of the hidden states."""
    codes: float
    """Smallest share of codes that are equal, given the same hidden state."""
    first_codes: float
    """The same for codebook 0 alone, which depends on no other code."""


BOUNDS = {torch.float32: Bound(1e-4, 0.98, 0.99), torch.bfloat16: Bound(0.05, 0.0, 0.6)}


def frames(section: Section) -> None:
    """Sends one check for each comparison."""
    torch.manual_seed(0)
    weights = make_weights(TOY)
    reference = _make("torch", weights, "cpu", torch.float32)
    _check_noise(section)
    spoken = _speak(reference)
    for name in ENGINES:
        for dtype, bound in BOUNDS.items():
            section.hurry()
            title = f"{name}, {str(dtype).removeprefix('torch.')}"
            try:
                engines = _make(name, weights, section.device, dtype)
                _check_embedding(section, title, engines, reference, bound)
                _check_backbone(section, title, engines, reference, bound)
                _check_depth(section, title, engines, reference, bound)
                _check_stage(section, title, engines, spoken, dtype)
            except Exception as error:  # the next engine or number format may be right
                section.check(title, ok=False, error=f"{type(error).__name__}: {error}")


def _make(name: str, weights: dict[str, torch.Tensor], device: str, dtype: torch.dtype) -> Engines:
    return make_engines(name, weights, TOY, NUM_BLOCKS, STREAMS, device, dtype)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error in the Euclidean norm; NaN is never within a bound."""
    found, expected = found.cpu().double(), expected.cpu().double()
    return float(f"{float((found - expected).norm() / expected.norm()):.3g}")


def _check_noise(section: Section) -> None:
    seeds, numbers = torch.tensor([0, 1, 2**62 + 7]), torch.tensor([0, 1000, 3])
    expected = gumbel_noise(seeds, numbers, 32, TOP_K)
    found = gumbel_noise(seeds.to(section.device), numbers.to(section.device), 32, TOP_K).cpu()
    worst = float((found - expected).abs().max())
    section.check("noise", worst < 1e-4, largest_difference=worst)


def _check_embedding(section: Section, title: str, engines: Engines, reference: Engines, bound: Bound) -> None:
    prompt = torch.from_numpy(_prompts(1)[0].astype(np.int64))
    error = _error(engines.embedding.prompt(prompt), reference.embedding.prompt(prompt))
    section.check(f"{title}: embedding", error <= bound.hidden, error=error)


def _check_backbone(section: Section, title: str, engines: Engines, reference: Engines, bound: Bound) -> None:
    """Prefill chunks beside frames of others, on unordered block tables, across the end of a block."""
    rng = np.random.default_rng(1)
    columns = TOY.max_seq_len // BLOCK_SIZE
    blocks = np.zeros((3, columns), np.int32)
    blocks[:, :6] = 1 + rng.permutation(18).reshape(3, 6)
    starts, worst = np.zeros(3, np.int32), 0.0
    for lengths in ([64, 7, 0], [30, 1, 129], [1, 1, 1], [1, 30, 1], [1, 1, 1]):
        rows = np.flatnonzero(lengths)
        counts = np.array(lengths, np.int32)[rows]
        order = rows[np.argsort(counts > 1, kind="stable")]  # as the core packs them: frames first, then prefill chunks
        counts = np.array(lengths, np.int32)[order]
        inputs = torch.from_numpy(rng.normal(0, 1, (counts.sum(), TOY.backbone.embed_dim)).astype(np.float32))

        def run(sides: Engines, inputs: torch.Tensor, counts: np.ndarray, order: np.ndarray) -> torch.Tensor:
            table = sides.embedding.text_table
            there = inputs.to(device=table.device, dtype=table.dtype)
            return sides.backbone.forward(Batch(there, counts, starts[order], blocks[order]))

        worst = max(worst, _error(run(engines, inputs, counts, order), run(reference, inputs, counts, order)))
        starts[order] += counts
    section.check(f"{title}: backbone", worst <= bound.hidden, error=worst)


def _check_depth(section: Section, title: str, engines: Engines, reference: Engines, bound: Bound) -> None:
    rows = 24
    rng = torch.Generator().manual_seed(2)
    hidden = torch.randn(rows, TOY.backbone.embed_dim, generator=rng)
    noise = gumbel_noise(torch.arange(rows), torch.zeros(rows, dtype=torch.int64), TOY.audio_num_codebooks, TOP_K)
    top_k = torch.tensor([1, TOP_K]).repeat(rows // 2)  # every second row is greedy
    sampling = Sampling(torch.full((rows,), 0.9), top_k, noise)
    expected, _ = reference.depth.forward(hidden, sampling)
    table = engines.embedding.text_table
    there = Sampling(*(t.to(table.device) for t in (sampling.temperature, sampling.top_k, sampling.noise)))
    codes, following = engines.depth.forward(hidden.to(device=table.device, dtype=table.dtype), there)
    equal = codes.cpu() == expected
    shares = {"codes_equal": float(equal.float().mean()), "first_codes_equal": float(equal[:, 0].float().mean())}
    error = _error(following, reference.embedding.audio(codes.cpu().long()))  # of its own codes
    ok = shares["codes_equal"] >= bound.codes and shares["first_codes_equal"] >= bound.first_codes
    section.check(f"{title}: depth", ok and error <= bound.hidden, **_rounded(shares), next_input_error=error)


def _check_stage(
    section: Section, title: str, engines: Engines, expected: list[np.ndarray], dtype: torch.dtype
) -> None:
    """Scheduler, loop and engines together: prefill chunks beside running frames, codes read back late."""
    found = _speak(engines)
    whole = [len(a) == len(b) for a, b in zip(found, expected, strict=True)]
    same = [
        next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if not np.array_equal(x, y)), FRAMES)
        for a, b in zip(found, expected, strict=True)
    ]
    share = sum(same) / (FRAMES * len(same))
    ok = all(whole) and (share >= 0.6 if dtype == torch.float32 else True)
    section.check(f"{title}: the generate stage", ok, frames_before_the_first_difference=round(share, 3))


def _speak(engines: Engines) -> list[np.ndarray]:
    """Return the frames of a few utterances that start one after another."""
    generator = engines.generator(Limits(max_streams=STREAMS, step_positions=64))
    orders = [
        Order(prompt, FRAMES, seed, temperature=0.9 if seed % 2 else 0.0, top_k=TOP_K)
        for seed, prompt in enumerate(_prompts(STREAMS))
    ]
    return speak(generator, [Utterance(order) for order in orders], generator.step)


def _prompts(count: int) -> list[np.ndarray]:
    """Return prompts of text, audio, text, of different lengths."""
    rng = np.random.default_rng(3)
    prompts = []
    for number in range(count):
        text, audio = 5 + 20 * number, 10 + 7 * number
        prompt = np.full((text + audio, TOY.frame_columns), MASKED, np.int32)
        prompt[:text, -1] = rng.integers(0, TOY.text_vocab_size, text)
        prompt[text:, :-1] = rng.integers(0, TOY.audio_codes, (audio, TOY.audio_num_codebooks))
        prompts.append(np.concatenate([prompt, prompt[:3]]))
    return prompts


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
