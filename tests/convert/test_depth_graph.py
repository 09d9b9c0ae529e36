"""The depth graph, run by ONNX Runtime, samples the eager engine's codes; its folder is written whole or not at all."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from convert.depth import GRAPH, WEIGHTS, convert_depth
from convert.depth_weights import depth_shapes
from misotts.config import ModelConfig
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Sampling
from misotts.engines.sampling import gumbel_noise
from misotts.model.checkpoint import Checkpoint
from tests.support.models import bare_folder, copy_of, ignore, tiny_config

ROUNDING = 5e-6

SHAPES = {
    "one key head": {},
    "as many key heads as heads": dict(
        decoder=dict(num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=4, intermediate_dim=24)
    ),
    "decoder wider than backbone, three to a key head": dict(
        decoder=dict(num_layers=2, embed_dim=96, num_heads=6, num_kv_heads=2, intermediate_dim=40)
    ),
    "two codebooks": dict(audio_num_codebooks=2),
    "eps that is felt": dict(norm_eps=0.3),
}


def convert(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    return convert_depth(folder, dtype, ignore)


def torch_depth(folder: Path) -> TorchDepth:
    config = ModelConfig.load(folder)
    weights = Checkpoint(folder, config)
    return TorchDepth(weights, config, Embedding(weights, config))


def run_graph(graph: Path, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = {"hidden": hidden, "temperature": sampling.temperature, "top_k": sampling.top_k, "noise": sampling.noise}
    codes, embedding = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(codes), torch.from_numpy(embedding)


def rows(n: int, config: ModelConfig, seed: int = 0) -> tuple[torch.Tensor, Sampling]:
    """Return normalised hidden states, with temperatures and top-k of all sizes."""
    random = torch.Generator().manual_seed(seed)
    top_k = torch.randint(1, config.audio_codes + 1, (n,), generator=random)
    top_k[n // 2] = 1
    noise = gumbel_noise(torch.arange(n) + seed, torch.arange(n), config.audio_num_codebooks, int(top_k.max()))
    temperature = torch.rand(n, generator=random) * 2 + 0.01
    return torch.randn(n, config.backbone.embed_dim, generator=random), Sampling(temperature, top_k, noise)


@pytest.fixture(scope="module")
def graph(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model's depth graph."""
    return convert(copy_of(demo_folder, tmp_path_factory.mktemp("onnx") / "demo")) / GRAPH


@pytest.mark.parametrize("n", [1, 2, 3, 8, 17])
def test_the_graph_samples_the_torch_engines_codes(demo_folder: Path, graph: Path, n: int) -> None:
    inputs = rows(n, ModelConfig.load(demo_folder), seed=n)
    codes, embedding = torch_depth(demo_folder).forward(*inputs)
    found, found_embedding = run_graph(graph, *inputs)
    assert torch.equal(found, codes)
    assert len(codes.unique()) > 10 * n, "the codes differ enough for a comparison"
    torch.testing.assert_close(found_embedding, embedding, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_any_shape(tmp_path: Path, changes: dict[str, object]) -> None:
    config = tiny_config(**changes)
    graph = convert(bare_folder(tmp_path, config)) / GRAPH
    inputs = rows(100, config)
    codes, embedding = torch_depth(tmp_path).forward(*inputs)
    found, found_embedding = run_graph(graph, *inputs)
    assert torch.equal(found, codes)
    torch.testing.assert_close(found_embedding, embedding, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_each_weight_is_on_disk_once(demo_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    folder = convert(copy_of(demo_folder, tmp_path / "demo"), dtype)
    shapes = depth_shapes(ModelConfig.load(demo_folder))
    size = sum(int(np.prod(shape)) for shape in shapes.values()) * dtype.itemsize
    assert size <= (folder / WEIGHTS).stat().st_size < size + 20_000
    assert (folder / GRAPH).stat().st_size < 300_000
    onnx.checker.check_model(folder / GRAPH)
    initializers = onnx.load(folder / GRAPH, load_external_data=False).graph.initializer
    external = [each.name for each in initializers if each.data_location == onnx.TensorProto.EXTERNAL]
    assert sorted(external) == sorted(shapes)


def test_float16_is_as_close_to_float32_as_torchs(demo_folder: Path, tmp_path: Path) -> None:
    """The test is also for bfloat16, which ONNX Runtime does not have on the CPU: both graphs have the same casts."""
    folder = convert(copy_of(demo_folder, tmp_path / "demo"), torch.float16)
    config = ModelConfig.load(demo_folder)
    weights = Checkpoint(demo_folder, config)
    hidden, sampling = rows(64, config)
    expected, _ = torch_depth(demo_folder).forward(hidden, sampling)
    half = TorchDepth(weights, config, Embedding(weights, config, dtype=torch.float16))
    peer, _ = half.forward(hidden.half(), sampling)
    codes, embedding = run_graph(folder / GRAPH, hidden.half(), sampling)
    assert embedding.dtype == torch.float16
    # A code that differs changes the later ones of its frame, so only the first ones are compared.
    ours, theirs = ((found[:, :4] == expected[:, :4]).float().mean() for found in (codes, peer))
    assert ours > theirs - 0.05


def test_a_graph_that_is_up_to_date_is_not_written_again(tmp_path: Path) -> None:
    folder = bare_folder(tmp_path)
    graph = convert(folder) / GRAPH
    first = graph.stat()
    assert convert(folder) / GRAPH == graph
    assert graph.stat().st_mtime_ns == first.st_mtime_ns
    bare_folder(tmp_path, seed=1)
    convert(folder)
    assert graph.stat().st_mtime_ns > first.st_mtime_ns


def test_a_conversion_that_fails_leaves_the_old_graph(tmp_path: Path) -> None:
    folder = convert(bare_folder(tmp_path))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    bare_folder(tmp_path, seed=1)

    def full(written: int, total: int) -> None:
        if written > total // 2:
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        convert_depth(tmp_path, torch.float32, full)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    convert_depth(bare_folder(tmp_path), torch.float32, lambda *step: progress.append(step))
    assert [written for written, _ in progress] == sorted(written for written, _ in progress)
    assert progress[-1][0] == progress[-1][1]
