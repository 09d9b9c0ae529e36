"""Results equal those in files, which detects changes that no comparison with another implementation finds.

Weights come from NumPy's frozen generator, so the files are valid on any machine. To renew them on purpose:

    python tests/test_golden.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama_models.llama3 import tokenizer as meta

from demo.model import CONFIG as DEMO
from misotts.config import FRAME_SAMPLES, MASKED, ModelConfig
from misotts.decode.decoder import Decoder
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Sampling
from misotts.engines.sampling import gumbel_noise
from misotts.mimi import build_mimi, encode
from misotts.model.checkpoint import tensor_shapes
from misotts.model.meta_tokenizer import add_bos_and_eos, tokenizer_from_meta
from misotts.slots import Piece
from tests.support.models import tiny_config

FOLDER = Path(__file__).with_name("golden")
TOLERANCE = 1e-5

TEXTS = [
    "[0] Hello from Miso.",
    "[0]Hello from Miso.",
    "[12] We'll see: it's 10:30, I've 1234567 things TO'VE done…",
    "[0] Привет 你好 مرحبا नमस्ते 👩‍👩‍👧 é e\u0301",
    "[0] a  b\t\n\n c\u00a0\u3000d   ",
    "[0] <|end_of_text|>",
]


def tokens() -> dict[str, list[int]]:
    tokenizer = tokenizer_from_meta(Path(meta.__file__).with_name("tokenizer.model"))
    add_bos_and_eos(tokenizer)
    tokenizer.encode_special_tokens = True
    return {text: tokenizer.encode(text).ids for text in TEXTS}


def noise() -> list[Any]:
    """The noise of four seeds and frames, for two codebooks and three ranks."""
    seeds, frames = torch.tensor([0, 1, -1, 2**62]), torch.tensor([0, 0, 3, 1000])
    return gumbel_noise(seeds, frames, codebooks=2, ranks=3).tolist()


def frames() -> dict[str, Any]:
    """12 frames, greedy and sampled, after a prompt of text and audio."""
    config = tiny_config()
    random = np.random.RandomState(0)
    weights = {}
    for name, shape in tensor_shapes(config).items():
        scale = 0.5 if "embeddings" in name else 2 * shape[1 if name == "audio_head" else -1] ** -0.5
        weights[name] = torch.from_numpy(random.standard_normal(shape).astype(np.float32)) * scale
        if name.endswith("scale"):
            weights[name] = 1 + 0.1 * weights[name]
    prompt = np.full((9, config.frame_columns), MASKED, np.int64)
    prompt[:3, -1], prompt[7:, -1] = [1, 5, 2], [7, 2]
    prompt[3:6, :-1], prompt[6, :-1] = random.randint(0, config.audio_codes, (3, 3)), 0
    greedy = _generate(config, weights, prompt, temperature=1.0, top_k=1)
    sampled = _generate(config, weights, prompt, temperature=0.9, top_k=10)
    return {"greedy": greedy, "drawn": sampled}


def _generate(
    config: ModelConfig, weights: dict[str, torch.Tensor], prompt: np.ndarray, temperature: float, top_k: int
) -> list[list[int]]:
    embedding = Embedding(weights, config)
    backbone = TorchBackbone(weights, config, num_blocks=5, block_size=16)
    depth = TorchDepth(weights, config, embedding)
    inputs, start, rows = embedding.prompt(torch.from_numpy(prompt)), 0, []
    for frame in range(12):
        blocks = np.array([[1, 2, 3, 4]], np.int32)
        batch = Batch(inputs, np.array([len(inputs)], np.int32), np.array([start], np.int32), blocks)
        gumbel = gumbel_noise(torch.tensor([3]), torch.tensor([frame]), config.audio_num_codebooks, top_k)
        sampling = Sampling(torch.tensor([temperature]), torch.tensor([top_k]), gumbel)
        start += len(inputs)
        codes, inputs = depth.forward(backbone.forward(batch), sampling)
        rows.append(codes[0].tolist())
    return rows


def codec() -> dict[str, Any]:
    """The first codebooks of a clip, and every 480th sample of three frames and the end frame."""
    mimi = build_mimi(ModelConfig.from_dict(DEMO)).eval().requires_grad_(False)
    random = np.random.RandomState(1)
    for name, tensor in mimi.state_dict().items():
        if name.endswith(("_initialized", "cluster_usage")) or ".norm" in name:
            tensor.fill_(0 if name.endswith("bias") else 1)
            continue
        fan_in = np.prod(tensor.shape[1:]) if tensor.dim() > 1 and "embedding_sum" not in name else 1
        tensor.copy_(torch.from_numpy(random.standard_normal(tuple(tensor.shape)) * fan_in**-0.5))
    clip = (0.3 * np.sin(np.arange(2 * FRAME_SAMPLES) * 0.05)).astype(np.float32)
    codes = random.randint(1, 2048, (4, 32)).astype(np.int32)
    codes[3] = 0
    (audio,) = Decoder(mimi, slots=1).decode([Piece(0, True, codes)])
    return {"codes": encode(mimi, clip)[:, :8].tolist(), "audio": audio[::480].tolist()}


RESULTS: dict[str, Callable[[], Any]] = {"tokens": tokens, "noise": noise, "frames": frames, "codec": codec}


@pytest.mark.parametrize("name", RESULTS)
def test_the_result_equals_the_file(name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert close(RESULTS[name](), expected)


def close(found: Any, expected: Any) -> bool:
    """True if both are equal, floats within `TOLERANCE` of their size."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))
    return bool(found == expected)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, result in RESULTS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(result()) + "\n", encoding="utf-8")
