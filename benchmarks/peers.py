"""Frames per second of our generate stage and of Transformers' CSM generation: same weights, same prompts, same run.

    python -m benchmarks.peers [--threads 1] [--rounds 5] [--output FILE]

All sides take turns on every set of prompts, so that other work on the machine slows all of them, and ratios are taken
round by round. A prompt is text and then audio, new in every round, so that no prefix is reused. The parts of a step of
our default engine are timed before.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

# On cores that other processes use too, a spinning OpenMP thread takes the time that another one needs.
os.environ["OMP_WAIT_POLICY"] = "passive"

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import CompileConfig, CsmForConditionalGeneration

from benchmarks.costs.engines import make_engines, random_prompts, speak
from benchmarks.costs.timing import measure
from benchmarks.csm_peer import make_peer
from benchmarks.record import record, save, write
from misotts.config import ConfigError, ModelConfig
from misotts.engines.interface import Batch, Limits, Step
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.load import load_engine
from misotts.engines.table import EngineChoice
from misotts.engines.two_part import sampling_of
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.model.checkpoint import Checkpoint
from misotts.model.weight_files import CheckpointError
from misotts.order import Order

TEXT, AUDIO = 40, 60
"""Positions of a prompt."""
FRAMES = 60
STREAMS = (1, 16)
PART_STREAMS, POSITIONS, CALLS = (1, 4, 16), 120, 30
"""Of the times by part: numbers of streams, positions of each in the cache, calls."""
TEMPERATURES = {"sampled": 0.9, "greedy": 0.0}
TOP_K = 50
OURS = {"ours": EngineChoice("compiled", depth="compiled"), "ours, eager": EngineChoice("torch", depth="torch")}
"""Engines of each of our sides; the first are the default."""

Array = npt.NDArray[np.int32]
Side = Callable[[Array, int, float], npt.NDArray[Any]]
"""Prompts [streams, positions, columns], number of frames, temperature → codes [streams, frames, codebooks]."""


def ours(folder: Path, config: ModelConfig, choice: EngineChoice) -> Side:
    """Return the generate stage as the server runs it: scheduler, paged KV cache, loop and sending thread."""
    limits = Limits(max_streams=max(STREAMS))
    generator = Generator(config, load_engine(folder, config, limits, choice), limits)
    generator.start()

    def run(prompts: Array, frames: int, temperature: float) -> npt.NDArray[Any]:
        orders = [Order(prompt, frames, seed, temperature, TOP_K) for seed, prompt in enumerate(prompts)]
        return np.stack(speak(generator, [Utterance(order) for order in orders]))

    return run


def theirs(model: CsmForConditionalGeneration, compiled: bool, backend: str = "inductor") -> Side:
    """Return `CsmForConditionalGeneration.generate` on one batch of prompts of one length.

    Its caches are dynamic, which is faster here, or static with compiled networks.
    """
    fixed: dict[str, Any] = {"cache_implementation": None, "compile_config": None}
    if compiled:
        config = CompileConfig(fullgraph=False, mode="default", backend=backend)
        config._compile_all_devices = True  # type: ignore[assignment]  # the CPU too
        fixed = {"cache_implementation": "static", "compile_config": config}

    @torch.inference_mode()
    def run(prompts: Array, frames: int, temperature: float) -> npt.NDArray[Any]:
        rows = torch.from_numpy(prompts.astype(np.int64)).to(model.device)
        text = model.embed_text_tokens(rows[:, :TEXT, -1])
        audio = model.backbone_model.embed_tokens(rows[:, TEXT:, :-1])
        options = {**fixed, "do_sample": temperature > 0}
        if temperature > 0:
            options |= {"temperature": temperature, "top_k": TOP_K}
        both = {**options, **{f"depth_decoder_{name}": value for name, value in options.items()}}
        codes = model.generate(inputs_embeds=torch.cat([text, audio], 1), max_new_tokens=frames, **both)
        assert isinstance(codes, torch.Tensor)
        return codes.cpu().numpy()

    return run


def load_sides(folder: Path, config: ModelConfig) -> dict[str, Side]:
    """Return all sides, with the weights of a model folder."""
    checkpoint = Checkpoint(folder, config)
    weights = {name: checkpoint[name].clone() for name in checkpoint}
    # Our heads have no rows for codes that are not audio; rows of zeros are never among the peer's likeliest.
    weights["codebook0_head.weight"][config.audio_codes :] = 0
    weights["audio_head"][:, :, config.audio_codes :] = 0
    sides = {name: ours(folder, config, choice) for name, choice in OURS.items()}
    sides["transformers"] = theirs(make_peer(weights, config), compiled=False)
    sides["transformers, compiled"] = theirs(make_peer(weights, config), compiled=True)
    return sides


def make_prompts(config: ModelConfig, streams: int, seed: int) -> Array:
    return random_prompts(config, streams, TEXT, AUDIO, seed)


def check(sides: Mapping[str, Side], config: ModelConfig, streams: int) -> dict[str, bool]:
    """Return whether each side's greedy frames are our default engine's. Compiles what is to be compiled."""
    prompts = make_prompts(config, streams, seed=0)
    for side in sides.values():
        side(prompts, FRAMES, TEMPERATURES["sampled"])
    codes = {name: side(prompts, FRAMES, 0.0) for name, side in sides.items()}
    return {name: np.array_equal(codes[name], codes["ours"]) for name in sides if name != "ours"}


def race(
    sides: Mapping[str, Side], config: ModelConfig, streams: int, temperature: float, rounds: int
) -> dict[str, Any]:
    """Return the frames per second of every side, from the prompts to the last frame of all streams, as medians; and
    the ratios as median, lowest and highest. Both also for seconds of the processor, because other work on the machine
    takes less of those."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for seed in range(1, rounds + 1):
        prompts = make_prompts(config, streams, seed=1000 * seed + round(10 * temperature))
        for name, side in sides.items():
            began, spent = time.perf_counter(), time.process_time()
            codes = side(prompts, FRAMES, temperature)
            seconds, processor_seconds = time.perf_counter() - began, time.process_time() - spent
            assert codes.shape == (streams, FRAMES, config.audio_num_codebooks), "a frame is missing"
            rates[name].append(streams * FRAMES / seconds)
            processor[name].append(streams * FRAMES / processor_seconds)
    return {**_figures(rates), **{f"{name}, processor": value for name, value in _figures(processor).items()}}


def _figures(rates: Mapping[str, list[float]]) -> dict[str, Any]:
    figures: dict[str, Any] = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    for our, their in itertools.product(OURS, [name for name in rates if name not in OURS]):
        ratios = [one / other for one, other in zip(rates[our], rates[their], strict=True)]
        figures[f"{our} / {their}"] = [round(f(ratios), 2) for f in (statistics.median, min, max)]
    return figures


@torch.inference_mode()
def parts(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, dict[int, float]]:
    """Return the milliseconds of the parts of a step of our default engine by number of streams, as medians. The loop
    and the scheduler are not among them."""
    columns, most = POSITIONS // BLOCK_SIZE + 1, max(PART_STREAMS)
    engines = make_engines("compiled", weights, config, 1 + most * columns, most, "cpu", torch.float32)
    found: dict[str, dict[int, float]] = {}
    for streams, top_k in itertools.product(PART_STREAMS, (TOP_K, 1)):
        slots, ones = np.arange(streams), np.ones(streams, np.int32)
        blocks = 1 + np.arange(streams * columns, dtype=np.int32).reshape(streams, columns)
        nothing = np.zeros((0, config.frame_columns), np.int64)
        warm = np.full(streams, TEMPERATURES["sampled"], np.float32)
        step = Step(
            slots, ones * POSITIONS, ones, blocks, streams, nothing, ones > 0, slots, slots, warm, slots * 0 + top_k
        )
        inputs = torch.randn(streams, config.backbone.embed_dim)
        sampling = partial(sampling_of, step, slots, config.audio_num_codebooks, inputs.device)
        actions: dict[str, Callable[[], object]] = {
            "backbone": partial(engines.backbone.forward, Batch(inputs, ones, ones * POSITIONS, blocks)),
            "depth decoder": partial(engines.depth.forward, inputs, sampling()),
            "sampling parameters, noise": sampling,
            "whole step": partial(engines.engine.step, step),
        }
        for name, action in actions.items():
            if top_k > 1 or name != "backbone":
                name += ", greedy" if top_k == 1 else ""
                found.setdefault(name, {})[streams] = round(measure(action, "cpu", CALLS).ms, 3)
    return found


def in_words(figures: dict[str, Any]) -> str:
    """Return one line for each figure of a race: frames per second, then ratios."""
    width = max(map(len, figures))
    return "\n".join(
        f"  {name:<{width}}  " + ("{} ({} to {})".format(*value) if isinstance(value, list) else f"{value} frames/s")
        for name, value in figures.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write; by default one in benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        config = ModelConfig.load(arguments.model)
        sides = load_sides(arguments.model, config)
    except (ConfigError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    by_part = parts(Checkpoint(arguments.model, config), config)
    print("\n".join(f"{name}: {times} ms" for name, times in by_part.items()), flush=True)
    speeds: dict[str, Any] = {}
    same: dict[str, Any] = {}
    for streams in STREAMS:
        same[str(streams)] = check(sides, config, streams)
        for kind, temperature in TEMPERATURES.items():
            speeds[f"{streams}, {kind}"] = race(sides, config, streams, temperature, arguments.rounds)
            print(f"{streams} streams, {kind}\n{in_words(speeds[f'{streams}, {kind}'])}", flush=True)
        others = [name for name, each in same[str(streams)].items() if not each]
        print(
            f"  greedy frames {'differ: ' + '; '.join(others) if others else 'are the same on all sides'}", flush=True
        )
    found = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **{"threads": arguments.threads, "rounds": arguments.rounds, "frames": FRAMES, "prompt": TEXT + AUDIO},
        "step_ms": by_part,
        "frames_per_second": speeds,
        "greedy_frames_are_ours": same,
    }
    output = arguments.output
    print(write(output, record(found)) if output else save(f"peers-{arguments.threads}-threads", found))


if __name__ == "__main__":
    main()
