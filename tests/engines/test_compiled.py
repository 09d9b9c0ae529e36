"""The compiled engine computes what the eager one does, and a row's bits do not depend on the rest of the batch."""

import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from demo.model import make_weights
from misotts.config import ModelConfig
from misotts.engines.compiled import library as compiled_library
from misotts.engines.compiled.engine import CompiledBackbone, CompiledDepth
from misotts.engines.compiled.library import library
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Limits, Sampling
from misotts.engines.load import load_engine
from misotts.engines.sampling import gumbel_noise
from misotts.engines.table import EngineChoice, EngineError
from misotts.engines.two_part import TwoPart
from tests.support.models import bare_folder, config_with, tiny_config

SHAPES = {
    "tiny": tiny_config(),
    "as many key heads as heads, many codes, odd widths": tiny_config(
        audio_vocab_size=1003,
        backbone=dict(num_layers=1, embed_dim=30, num_heads=3, num_kv_heads=3, intermediate_dim=7),
        decoder=dict(num_layers=2, embed_dim=72, num_heads=6, num_kv_heads=6, intermediate_dim=50),
    ),
    "more codebooks than a block has positions": config_with(
        tiny_config(), audio_num_codebooks=37, mimi={"quantizer": {"bins": 16, "n_q": 40}}
    ),
    "eps that is felt": tiny_config(norm_eps=0.3),
    "large enough for two threads": tiny_config(
        max_seq_len=256,
        backbone=dict(num_layers=2, embed_dim=512, num_heads=8, num_kv_heads=2, intermediate_dim=1100),
        decoder=dict(num_layers=2, embed_dim=256, num_heads=2, num_kv_heads=1, intermediate_dim=600),
    ),
}
LENGTHS = (1, 2, 9, 31, 32, 33, 40, 5, 64, 1, 17)
"""Positions of the sequences."""
COLUMNS = 2
CHUNKS = (1, 7, 32, 64)
"""Most positions of a sequence in one pass."""

REGISTERS = {"as the processor has": "", "8 floats": "avx512f", "4 floats": "avx"}
"""The instructions that the compiler may not use for registers of another width. These libraries check indices."""
CHECKED = "-D_GLIBCXX_ASSERTIONS"
X86 = platform.machine() == "x86_64"

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=REGISTERS if X86 else list(REGISTERS)[:1])
def registers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile the engine for registers of one width."""
    with pytest.MonkeyPatch.context() as patch:
        if instructions := REGISTERS[request.param]:
            patch.setattr(compiled_library, "FLAGS", (*compiled_library.FLAGS, f"-mno-{instructions}", CHECKED))
            command = ["g++", *compiled_library.FLAGS, "-dM", "-E", "-x", "c++", "/dev/null"]
            defined = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            assert f"__{instructions.upper()}__" not in defined
        library.cache_clear()
        yield
    library.cache_clear()


@pytest.fixture(scope="module", params=SHAPES)
def shape(registers: None, request: pytest.FixtureRequest) -> tuple[ModelConfig, Weights]:
    torch.manual_seed(0)
    config = SHAPES[request.param]
    return config, make_weights(config)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def prefill(
    backbone: TorchBackbone | CompiledBackbone, inputs: list[torch.Tensor], sequences: range, chunk: int
) -> list[torch.Tensor]:
    """Run sequences together, `chunk` positions of each in a pass; return each one's last hidden state. Every sequence
    has blocks of its own, in another order than their numbers."""
    done, last = [0] * len(inputs), [torch.empty(0)] * len(inputs)
    while open_ones := [s for s in sequences if done[s] < len(inputs[s])]:
        lengths = [min(chunk, len(inputs[s]) - done[s]) for s in open_ones]
        blocks = np.array([[2 + 2 * s, 1 + 2 * s] for s in open_ones], np.int32)
        rows = torch.cat([inputs[s][done[s] : done[s] + n] for s, n in zip(open_ones, lengths, strict=True)])
        starts = np.array([done[s] for s in open_ones], np.int32)
        hidden = backbone.forward(Batch(rows, np.array(lengths, np.int32), starts, blocks))
        for s, n, state in zip(open_ones, lengths, hidden, strict=True):
            done[s], last[s] = done[s] + n, state
    return [last[s] for s in sequences]


def make_sampling(n: int, config: ModelConfig) -> Sampling:
    """Return temperatures and top-k of all sizes."""
    random = torch.Generator().manual_seed(n)
    top_k = torch.randint(1, config.audio_codes + 1, (n,), generator=random)
    top_k[::3] = torch.randint(1, 4, (len(top_k[::3]),), generator=random)
    noise = gumbel_noise(torch.arange(n), torch.arange(n), config.audio_num_codebooks, int(top_k.max()))
    return Sampling(torch.rand(n, generator=random) * 2 + 0.01, top_k, noise)


def part(sampling: Sampling, rows: slice) -> Sampling:
    top_k = sampling.top_k[rows]
    return Sampling(sampling.temperature[rows], top_k, sampling.noise[rows, :, : int(top_k.max())])


def test_backbone_and_depth_decoder_agree_with_the_eager_engine(shape: tuple[ModelConfig, Weights]) -> None:
    config, weights = shape
    blocks = 1 + COLUMNS * len(LENGTHS)
    inputs = [torch.randn(length, config.backbone.embed_dim) for length in LENGTHS]
    everything = range(len(LENGTHS))
    hidden = torch.stack(prefill(CompiledBackbone(weights, config, blocks), inputs, everything, 33))
    expected = torch.stack(prefill(TorchBackbone(weights, config, blocks), inputs, everything, 64))
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)
    embedding = Embedding(weights, config)
    hidden, sampling = torch.randn(100, config.backbone.embed_dim), make_sampling(100, config)
    codes, following = CompiledDepth(weights, config, embedding).forward(hidden, sampling)
    expected_codes, expected_following = TorchDepth(weights, config, embedding).forward(hidden, sampling)
    assert torch.equal(codes, expected_codes)
    torch.testing.assert_close(following, expected_following, rtol=0, atol=1e-5)


def test_a_row_has_the_same_bits_in_any_batch_and_any_chunks(
    shape: tuple[ModelConfig, Weights], two_threads: None
) -> None:
    config, weights = shape
    inputs = [torch.randn(length, config.backbone.embed_dim) for length in LENGTHS]
    backbone = CompiledBackbone(weights, config, 1 + COLUMNS * len(LENGTHS))
    together = prefill(backbone, inputs, range(len(LENGTHS)), 64)
    torch.set_num_threads(1)
    single = CompiledBackbone(weights, config, 1 + COLUMNS * len(LENGTHS))
    for chunk in CHUNKS:
        alone = [prefill(single, inputs, range(s, s + 1), chunk)[0] for s in range(len(LENGTHS))]
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)), chunk
    depth = CompiledDepth(weights, config, Embedding(weights, config))
    hidden, sampling = torch.randn(23, config.backbone.embed_dim), make_sampling(23, config)
    whole, (codes, embedding) = depth.logits(hidden, sampling), depth.forward(hidden, sampling)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 8), slice(8, 16), slice(16, 23), slice(22, 23)):
        assert torch.equal(depth.logits(hidden[rows], part(sampling, rows)), whole[rows])
        found, found_embedding = depth.forward(hidden[rows], part(sampling, rows))
        assert torch.equal(found, codes[rows])
        assert torch.equal(found_embedding, embedding[rows])


def test_a_row_of_nan_leaves_nothing_in_its_place(shape: tuple[ModelConfig, Weights]) -> None:
    config, weights = shape
    depth, backbone = CompiledDepth(weights, config, Embedding(weights, config)), CompiledBackbone(weights, config, 3)
    hidden, sampling = torch.randn(5, config.backbone.embed_dim), make_sampling(5, config)
    bad = hidden.clone()
    bad[2] = torch.nan
    codes, embedding = depth.forward(hidden, sampling)
    (state,) = prefill(backbone, [hidden], range(1), 5)
    beside, _ = depth.forward(bad, sampling)
    prefill(backbone, [bad], range(1), 5)
    assert torch.equal(beside[[0, 1, 3, 4]], codes[[0, 1, 3, 4]])
    again, embedding_again = depth.forward(hidden, sampling)
    assert torch.equal(again, codes)
    assert torch.equal(embedding_again, embedding)
    assert torch.equal(prefill(backbone, [hidden], range(1), 5)[0], state)


def test_a_call_of_the_depth_decoder_without_rows_does_nothing(shape: tuple[ModelConfig, Weights]) -> None:
    """A library that checks its indices would end the process."""
    config, weights = shape
    hidden, sampling = torch.empty(0, config.backbone.embed_dim), make_sampling(1, config)
    none = Sampling(sampling.temperature[:0], sampling.top_k[:0], sampling.noise[:0])
    codes, _ = CompiledDepth(weights, config, Embedding(weights, config)).forward(hidden, none)
    assert codes.shape == (0, config.audio_num_codebooks)


def test_sampling_is_that_of_sorted_logits(shape: tuple[ModelConfig, Weights]) -> None:
    """An independent sort of the logits gives the same codes. Of equal logits the lower code is the likelier."""
    config, weights = shape
    twins = weights["codebook0_head.weight"].clone()
    twins[1::2] = twins[0:-1:2]
    depth = CompiledDepth({**weights, "codebook0_head.weight": twins}, config, Embedding(weights, config))
    hidden, sampling = torch.randn(60, config.backbone.embed_dim), make_sampling(60, config)
    codes = depth.forward(hidden, sampling)[0].numpy()
    logits, noise = depth.logits(hidden, sampling).numpy(), sampling.noise.numpy()
    for row, codebook in np.ndindex(codes.shape):
        order = np.argsort(-logits[row, codebook], kind="stable")[: int(sampling.top_k[row])]
        scores = logits[row, codebook, order] / sampling.temperature[row].numpy() + noise[row, codebook, : len(order)]
        assert codes[row, codebook] == order[scores.argmax()]
    assert np.ptp(codes[:, 0]) > 5


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, in which the library is not made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    yield tmp_path / "cache"
    library.cache_clear()


def test_without_a_compiler_pytorch_takes_its_place(
    without_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config()
    folder = bare_folder(tmp_path / "model", config)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        engine = load_engine(folder, config, Limits())
    assert [record.getMessage() for record in caplog.records] == [
        "the compiled engine cannot be made: no-such-compiler is not installed; "
        "PyTorch takes its place, which is about ten times slower"
    ]
    assert isinstance(engine, TwoPart)
    assert isinstance(engine._backbone, TorchBackbone)
    with pytest.raises(EngineError, match=r"^the compiled engine cannot be made: no-such-compiler is not installed$"):
        load_engine(folder, config, Limits(), EngineChoice(depth="compiled"))


def test_a_compiler_that_fails_leaves_no_library(
    without_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "engine.cpp"
    broken.write_text("int main() { return 0 }")
    monkeypatch.setattr(compiled_library, "SOURCE", broken)
    with pytest.raises(EngineError, match=r"^the compiled engine cannot be made: .*"):
        library()
    assert not list((without_library / "misotts").iterdir())


def test_a_damaged_library_is_made_anew(without_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library is on the disk before it has its name, so a power cut cannot leave a part of it."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.delenv("CXX", raising=False)
    path = compiled_library._cache() / f"engine-{compiled_library._key(['g++'])}.so"
    path.write_bytes(b"")
    library()
    assert path.stat().st_size > 0
    assert len(synced) == 1
