"""Frames per second of our generate stage and of Transformers' CSM generation: same weights, same prompts, same run.

    python -m benchmarks.peers [--threads 1] [--rounds 5] [--output FILE]

All sides take a turn on every set of prompts, so that a noisy machine is noisy to each, and ratios are taken round by
round. A prompt is text and then audio, new in every round: none of it is found in our KV pool.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

# Where others want the cores too, a spinning OpenMP thread waits for time slices that it keeps from its neighbour.
os.environ["OMP_WAIT_POLICY"] = "passive"

import numpy as np
import torch
import transformers
from transformers import CompileConfig, CsmForConditionalGeneration

from benchmarks.costs.engines import speak
from benchmarks.csm_peer import make_peer
from benchmarks.record import record, save, write
from misotts.config import MASKED, ConfigError, ModelConfig
from misotts.engines.interface import Limits
from misotts.engines.load import load_engine
from misotts.engines.table import DepthLibrary, EngineChoice
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.model.checkpoint import Checkpoint
from misotts.model.weight_files import CheckpointError
from misotts.order import Order

TEXT, AUDIO = 40, 60
"""Positions of a prompt."""
FRAMES = 60
STREAMS = (1, 16)
TEMPERATURES = {"sampled": 0.9, "greedy": 0.0}
TOP_K = 50
OURS: dict[str, DepthLibrary] = {"ours": "torch", "ours, ONNX depth": "onnx"}
"""Our sides, and the depth engine of each."""


class Side(Protocol):
    def speak(self, prompts: np.ndarray, frames: int, temperature: float) -> np.ndarray:
        """Codes [streams, frames, codebooks] after `prompts` int32 [streams, positions, columns]."""
        ...


class Ours:
    """The generate stage as it is served: scheduler, paged KV cache, loop and sending thread."""

    def __init__(self, folder: Path, config: ModelConfig, depth: DepthLibrary) -> None:
        limits = Limits(max_streams=max(STREAMS))
        self._generator = Generator(config, load_engine(folder, config, limits, EngineChoice(depth=depth)), limits)
        self._generator.start()

    def speak(self, prompts: np.ndarray, frames: int, temperature: float) -> np.ndarray:
        """See `Side.speak`."""
        orders = [Order(prompt, frames, seed, temperature, TOP_K) for seed, prompt in enumerate(prompts)]
        return np.stack(speak(self._generator, [Utterance(order) for order in orders]))


class Theirs:
    """`CsmForConditionalGeneration.generate` on one batch of prompts of one length.

    Its caches are dynamic, which is the faster kind here, or static and its networks compiled.
    """

    def __init__(self, model: CsmForConditionalGeneration, compiled: bool, backend: str = "inductor") -> None:
        self._model = model
        self._options: dict[str, Any] = {"cache_implementation": None, "compile_config": None}
        if compiled:
            config = CompileConfig(fullgraph=False, mode="default", backend=backend)
            config._compile_all_devices = True  # type: ignore[assignment]  # the CPU among them
            self._options = {"cache_implementation": "static", "compile_config": config}

    @torch.inference_mode()
    def speak(self, prompts: np.ndarray, frames: int, temperature: float) -> np.ndarray:
        """See `Side.speak`."""
        rows = torch.from_numpy(prompts.astype(np.int64)).to(self._model.device)
        text = self._model.embed_text_tokens(rows[:, :TEXT, -1])
        audio = self._model.backbone_model.embed_tokens(rows[:, TEXT:, :-1])
        options: dict[str, Any] = {**self._options, "do_sample": temperature > 0}
        if temperature > 0:
            options |= {"temperature": temperature, "top_k": TOP_K}
        both = {**options, **{f"depth_decoder_{name}": value for name, value in options.items()}}
        codes = self._model.generate(inputs_embeds=torch.cat([text, audio], 1), max_new_tokens=frames, **both)
        assert isinstance(codes, torch.Tensor)
        return codes.cpu().numpy()


def with_onnx_depth(folder: Path, where: Path) -> Path:
    """A model folder in `where` that refers to the files of `folder` and has its depth decoder as an ONNX graph."""
    model = where / "model"
    model.mkdir()
    for path in folder.iterdir():
        (model / path.name).symlink_to(path.absolute())
    from convert.depth import convert_depth  # not at the top: the GPU suite uses the peer alone, without ONNX

    convert_depth(model, torch.float32, lambda written, total: None)
    return model


def load_peer(folder: Path, config: ModelConfig) -> CsmForConditionalGeneration:
    """The peer with the folder's weights. Our heads have no row for the codes that are not audio; in the peer's these
    rows are zero, and so never among the likeliest."""
    checkpoint = Checkpoint(folder, config)
    weights = {name: checkpoint[name].clone() for name in checkpoint}
    weights["codebook0_head.weight"][config.audio_codes :] = 0
    weights["audio_head"][:, :, config.audio_codes :] = 0
    return make_peer(weights, config)


def make_prompts(config: ModelConfig, streams: int, seed: int) -> np.ndarray:
    random = np.random.default_rng([streams, seed])
    prompts = np.full((streams, TEXT + AUDIO, config.frame_columns), MASKED, np.int32)
    prompts[:, :TEXT, -1] = random.integers(0, config.text_vocab_size, (streams, TEXT))
    prompts[:, TEXT:, :-1] = random.integers(0, config.audio_codes, (streams, AUDIO, config.audio_num_codebooks))
    return prompts


def check(sides: dict[str, Side], config: ModelConfig, streams: int) -> dict[str, bool]:
    """Whether each side's greedy frames are our torch engine's; it compiles what there is to compile, too."""
    prompts = make_prompts(config, streams, seed=0)
    for side in sides.values():
        side.speak(prompts, FRAMES, TEMPERATURES["sampled"])
    codes = {name: side.speak(prompts, FRAMES, 0) for name, side in sides.items()}
    return {name: np.array_equal(codes[name], codes["ours"]) for name in sides if name != "ours"}


def race(sides: dict[str, Side], config: ModelConfig, streams: int, temperature: float, rounds: int) -> dict[str, Any]:
    """Frames per second of every side, from the prompts to the last frame of all streams: medians; of the ratios the
    median, the lowest and the highest."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for seed in range(1, rounds + 1):
        prompts = make_prompts(config, streams, seed=1000 * seed + round(10 * temperature))
        for name, side in sides.items():
            began = time.perf_counter()
            codes = side.speak(prompts, FRAMES, temperature)
            seconds = time.perf_counter() - began
            assert codes.shape == (streams, FRAMES, config.audio_num_codebooks), "not every frame was drawn"
            rates[name].append(streams * FRAMES / seconds)
    figures: dict[str, Any] = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    for ours, theirs in itertools.product(OURS, [name for name in sides if name not in OURS]):
        ratios = [our / their for our, their in zip(rates[ours], rates[theirs], strict=True)]
        figures[f"{ours} / {theirs}"] = [round(f(ratios), 2) for f in (statistics.median, min, max)]
    return figures


def in_words(figures: dict[str, Any]) -> str:
    """The figures of a race, a line for each: frames per second, then ratios."""
    said = {
        name: "{} ({} to {})".format(*value) if isinstance(value, list) else f"{value} frames/s"
        for name, value in figures.items()
    }
    width = max(map(len, said))
    return "\n".join(f"  {name:<{width}}  {words}" for name, words in said.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write; by default one in benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        config = ModelConfig.load(arguments.model)
        peer = load_peer(arguments.model, config)
    except (ConfigError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as where:
        model = with_onnx_depth(arguments.model, Path(where))
        sides: dict[str, Side] = {name: Ours(model, config, depth) for name, depth in OURS.items()}
    sides |= {
        "transformers": Theirs(peer, compiled=False),
        "transformers, compiled": Theirs(load_peer(arguments.model, config), compiled=True),
    }
    figures: dict[str, Any] = {"frames_per_second": {}, "greedy_frames_are_ours": {}}
    for streams in STREAMS:
        figures["greedy_frames_are_ours"][str(streams)] = check(sides, config, streams)
        for draw, temperature in TEMPERATURES.items():
            rates = race(sides, config, streams, temperature, arguments.rounds)
            figures["frames_per_second"][f"{streams}, {draw}"] = rates
            print(f"{streams} streams, {draw}\n{in_words(rates)}", flush=True)
        same = figures["greedy_frames_are_ours"][str(streams)]
        odd = [name for name, each in same.items() if not each]
        print(
            f"  greedy frames: {'NOT ours: ' + '; '.join(odd) if odd else 'those of all sides are the same'}",
            flush=True,
        )
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    setting = {"threads": arguments.threads, "rounds": arguments.rounds, "frames": FRAMES, "prompt": TEXT + AUDIO}
    found = {"versions": versions, **setting, **figures}
    output = arguments.output
    print(write(output, record(found)) if output else save(f"peers-{arguments.threads}-threads", found))


if __name__ == "__main__":
    main()
