"""What matrices in 8 bits change in the frames: how often the depth decoder draws the code that full precision draws.

    python -m benchmarks.depth_weights --model models/demo
    python -m benchmarks.depth_weights --full-size        # llama-300M, 32 codebooks, random weights

Teacher-forced: every engine gets the same hidden state, the same noise and, in place of its own codes, those that full
precision has drawn before in the frame. So a codebook's figure is its own, and no difference is carried on. Each graph
is the one that is served, in ONNX Runtime; only where its codes go back in, those given take their place.

Three figures: *greedy*, how often the likeliest code is the same; *sampled*, how often the same noise draws the same
code; *shared*, what the two distributions that are drawn from have in common (1 - total variation distance). Noise
belongs to ranks: where two codes of nearly the same likelihood swap ranks, other codes are drawn from a distribution
that has hardly changed. So *sampled* tells whether a seed gives the same frames, *shared* whether they are as likely.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.listener import Listener
from benchmarks.record import save
from convert.depth import GRAPH, WEIGHTS, convert_depth
from demo.model import make_weights
from misotts.config import ModelConfig
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.eight_bits import EightBits
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Depth, Limits, Sampling
from misotts.engines.sampling import gumbel_noise
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.mimi import encode, load_mimi
from misotts.model.checkpoint import Checkpoint
from misotts.model.weight_files import save_weights
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts_client.request import SpeechRequest

TEXTS = Path("demo/text.txt")
TEMPERATURE, TOP_K = 0.9, 50
KINDS: tuple[EightBits, ...] = ("int8", "fp8")
ROWS = 64
"""Frames in a call of ONNX Runtime, which turns 8 bits into float32 once a call."""

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """How much is as in full precision, from 0 to 1: of all codebooks, and of each."""

    mean: float
    codebooks: list[float]

    @classmethod
    def of(cls, frames: np.ndarray) -> Agreement:
        """Of agreements [frames, codebooks]."""
        same = frames.mean(axis=0)
        return cls(round(float(same.mean()), 4), [round(float(part), 4) for part in same])


@dataclass(frozen=True)
class Figures:
    """One kind of matrices."""

    weights_mb: float
    """The whole file, tables in full precision among it."""
    sampled: Agreement
    greedy: Agreement
    shared: Agreement


def main(
    model: Annotated[Path, typer.Option(help="Model folder; missing graphs are written into it.")] = Path(
        "models/demo"
    ),
    full_size: Annotated[bool, typer.Option(help="The 8B model's depth decoder, with random weights.")] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames to compare.")] = 512,
) -> None:
    """Compare, print a table, and keep the result under benchmarks/results/."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as work:
        if full_size:
            model = full_size_folder(Path(work))
            hidden = torch.randn(frames, ModelConfig.load(model).backbone.embed_dim)  # of the size that a norm leaves
        else:
            hidden = spoken_states(model, frames)
        figures = compare(model, hidden)
    show(figures)
    name = "full-size" if full_size else model.name
    engines = {kind: asdict(each) for kind, each in figures.items()}
    kept = save(
        f"depth-weights-{name}",
        {"model": name, "frames": len(hidden), "temperature": TEMPERATURE, "top_k": TOP_K, "engines": engines},
    )
    typer.echo(f"kept in {kept.name}")


def compare(model: Path, hidden: torch.Tensor) -> dict[str, Figures]:
    """Each kind of matrices against full precision, at the hidden states [frames, width]."""
    inputs = depth_inputs(hidden, ModelConfig.load(model))
    full = convert_depth(model, torch.float32, _ignore)
    free = onnxruntime_codes(full, inputs)
    # Rows come in pairs, sampled and greedy: both are given what was sampled.
    given = inputs | {"given": np.repeat(free[::2], 2, axis=0)}
    expected, expected_shares = run(forced(full), given)
    assert np.array_equal(expected[::2], free[::2]), "given its own codes, full precision draws them again"
    figures: dict[str, Figures] = {}
    for kind in KINDS:
        folder = convert_depth(model, torch.float32, _ignore, kind)
        codes, shares = run(forced(folder), given)
        same = codes == expected
        shared = np.minimum(shares, expected_shares).sum(axis=2)
        size = round((folder / WEIGHTS).stat().st_size / 1e6, 1)
        figures[kind] = Figures(size, Agreement.of(same[::2]), Agreement.of(same[1::2]), Agreement.of(shared))
    return figures


def forced(folder: Path) -> onnxruntime.InferenceSession:
    """The depth graph of a folder with one more input, `given` [n, codebooks], the codes that it is to believe it has
    drawn, and its logits as outputs."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    codebooks = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for node in model.graph.node:
        if "codes" not in node.output:
            node.input[:] = [re.sub(r"^code\.", "given.", name) for name in node.input]
    parts = [f"given.{n}" for n in range(codebooks)]
    model.graph.node.insert(0, onnx.helper.make_node("Split", ["given"], parts, axis=1, num_outputs=codebooks))
    model.graph.input.append(onnx.helper.make_tensor_value_info("given", onnx.TensorProto.INT64, ["n", codebooks]))
    model.graph.output.extend(onnx.ValueInfoProto(name=f"logits.{n}") for n in range(codebooks))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def onnxruntime_codes(folder: Path, inputs: Inputs) -> np.ndarray:
    """The codes [rows, codebooks] that the graph of a folder draws."""
    session = onnxruntime.InferenceSession(folder / GRAPH)
    return np.concatenate([session.run(["codes"], part)[0] for part in batches(inputs)])


def run(session: onnxruntime.InferenceSession, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The codes [rows, codebooks] of a `forced` graph, and what those of the sampled rows are drawn from: distributions
    [rows / 2, codebooks, codes]."""
    codes, shares = [], []
    names = [output.name for output in session.get_outputs()]
    for part in batches(inputs):
        found = dict(zip(names, session.run(names, part), strict=True))
        codes.append(found["codes"])
        logits = np.stack([found[f"logits.{n}"][::2] for n in range(found["codes"].shape[1])], axis=1)
        shares.append(distribution(torch.from_numpy(logits)).numpy())
    return np.concatenate(codes), np.concatenate(shares)


def batches(inputs: Inputs) -> list[Inputs]:
    starts = range(0, len(inputs["hidden"]), ROWS)
    return [{name: value[start : start + ROWS] for name, value in inputs.items()} for start in starts]


def distribution(logits: torch.Tensor) -> torch.Tensor:
    """What is drawn from, with `TEMPERATURE` and `TOP_K`."""
    least = logits.topk(TOP_K, dim=-1).values[..., -1:]
    return (logits / TEMPERATURE).masked_fill(logits < least, -torch.inf).softmax(dim=-1)


def depth_inputs(hidden: torch.Tensor, config: ModelConfig) -> Inputs:
    """Every frame twice: sampled, then greedy."""
    n = torch.arange(len(hidden))
    noise = gumbel_noise(torch.zeros_like(n), n, config.audio_num_codebooks, TOP_K).repeat_interleave(2, dim=0)
    return {
        "hidden": hidden.repeat_interleave(2, dim=0).numpy(),
        "temperature": np.full(2 * len(n), TEMPERATURE, np.float32),
        "top_k": np.tile([TOP_K, 1], len(n)),
        "noise": noise.numpy(),
    }


def spoken_states(model: Path, frames: int) -> torch.Tensor:
    """Hidden states [frames, width] of a model that speaks the lines of `TEXTS`, one after another and again."""
    config = ModelConfig.load(model)
    weights = Checkpoint(model, config)
    embedding = Embedding(weights, config)
    depth = _Listening(TorchDepth(weights, config, embedding))
    limits = Limits(max_streams=1)
    backbone = TorchBackbone(weights, config, num_blocks=1 + config.max_seq_len // 32)
    generator = Generator(config, embedding, backbone, depth, limits)
    mimi = load_mimi(model, config)
    prompter = Prompter(model, config, partial(encode, mimi), Voices(None))
    texts = [line for line in TEXTS.read_text(encoding="utf-8").splitlines() if line.strip()]
    for seed in range(frames):
        if len(depth.heard) >= frames:
            break
        prompt = prompter.build(SpeechRequest(texts[seed % len(texts)])).frames
        generator.submit(Utterance(prompt, 32, seed, TEMPERATURE, TOP_K), Listener(generator))
        while generator.streams:
            generator.step()
            generator.hand_on()
    return torch.cat(depth.heard)[:frames]


class _Listening:
    """A depth engine that keeps the hidden states which it is given."""

    def __init__(self, engine: Depth) -> None:
        self._engine = engine
        self.heard: list[torch.Tensor] = []

    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        self.heard.append(hidden.clone())
        return self._engine.forward(hidden, sampling)


def full_size_folder(work: Path) -> Path:
    """The 8B model's depth decoder and its embeddings, beside a backbone and a vocabulary of next to nothing."""
    backbone = dict(num_layers=1, embed_dim=4096, num_heads=32, num_kv_heads=8, intermediate_dim=8)
    sizes = dict(text_vocab_size=8, audio_vocab_size=2051, audio_num_codebooks=32)
    (work / "config.json").write_text(json.dumps({**sizes, "backbone": backbone, "decoder": "llama-300M"}))
    save_weights(work / "model.safetensors", make_weights(ModelConfig.load(work)), _ignore)
    return work


def show(figures: dict[str, Figures]) -> None:
    """Mean over the codebooks, and the worst codebook."""
    table = Table("matrices", "file, MB", "greedy", "sampled", "shared")
    for kind, each in figures.items():
        parts = (
            f"{100 * a.mean:.1f} % ({100 * min(a.codebooks):.1f})" for a in (each.greedy, each.sampled, each.shared)
        )
        table.add_row(kind, f"{each.weights_mb}", *parts)
    Console().print(table)


def _ignore(*_: object) -> None:
    pass


if __name__ == "__main__":
    typer.run(main)
