"""Every Triton kernel, in Triton's interpreter, compared with the plain operation: odd shapes, partly filled blocks,
edges of tiles."""

import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the kernels run on the GPU here, not in the interpreter", allow_module_level=True)

from misotts.config import TransformerConfig
from misotts.engines.graph import plain
from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels import attention
from misotts.engines.graph.kernels.linear import MANY_ROWS, linear_tiles
from misotts.engines.graph.matrix import Matrix
from misotts.engines.graph.operations import Operations, operations
from misotts.engines.graph.plain import LayerCache, Tiles
from misotts.engines.sampling import gumbel_noise
from misotts.engines.table import WeightType
from misotts.engines.transformer import rope_table

fused = operations("fused")
GEMV, WIDE = operations("fused", Choices(gemv=True)), operations("fused", Choices(products="wide"))
ONE_PASS = operations("fused", Choices(one_pass=True))

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
"""Largest rounding error of a result of size 1."""


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    size = max(1.0, float(wanted.float().abs().max()))
    torch.testing.assert_close(found.float(), wanted.float(), rtol=0, atol=TOLERANCE[wanted.dtype] * size)


@pytest.mark.parametrize("weight_type", ["full", "fp8", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("fused", "rows", "outputs", "inputs"),
    [
        pytest.param(fused, 1, 48, 40, id="1 row"),
        pytest.param(fused, 16, 16, 256, id="16 rows"),
        pytest.param(fused, 17, 35, 257, id="17 rows"),
        pytest.param(fused, 64, 65, 72, id="64 rows"),
        pytest.param(GEMV, 1, 35, 1100, id="gemv"),
        pytest.param(WIDE, 65, 130, 72, id="wide"),
    ],
)
def test_linear(
    fused: Operations, rows: int, outputs: int, inputs: int, dtype: torch.dtype, weight_type: WeightType
) -> None:
    x = random(rows, inputs, seed=1, dtype=dtype)
    weight = random(2 * outputs, inputs, seed=2) / inputs**0.5
    matrix = Matrix.make(weight, dtype, weight_type, norm=1 + random(inputs, seed=3) / 4)
    residual = random(rows, 2 * outputs, seed=4, dtype=dtype)
    assert_near(fused.linear(x, matrix), plain.linear(x, matrix))
    assert_near(fused.linear(x, matrix, 1e-5, residual=residual), plain.linear(x, matrix, 1e-5, residual=residual))
    assert_near(fused.linear(x, matrix, 0.3, swiglu=True), plain.linear(x, matrix, 0.3, swiglu=True))


def test_linear_at_every_edge_of_its_tiles() -> None:
    """Each row is as in any other batch, on both sides of every change of tiles. The matrix is quantised, so that the
    kernel multiplies with any number of rows."""
    matrix = Matrix.make(random(40, 24, seed=1), torch.float32, "int8")
    x = random(130, 24, seed=2)
    wanted = plain.linear(x, matrix, 1e-5)
    assert len({linear_tiles(rows) for rows in range(1, 130)}) == 3
    for rows in (1, 2, 15, 16, 17, 31, 32, 33, 63, MANY_ROWS, MANY_ROWS + 1, 127, 128, 130):
        assert_near(fused.linear(x[:rows], matrix, 1e-5), wanted[:rows])


def test_cublas_multiplies_many_rows() -> None:
    x, matrix = random(MANY_ROWS + 1, 24), Matrix(random(40, 24))
    assert torch.equal(fused.linear(x, matrix, 1e-5), plain.linear(x, matrix, 1e-5))
    library = operations("fused", Choices(products="library"))
    assert torch.equal(library.linear(x[:MANY_ROWS], matrix, 1e-5), plain.linear(x[:MANY_ROWS], matrix, 1e-5))


@pytest.mark.parametrize("width", [1, 48, 513])
def test_rms_norm(width: int) -> None:
    x, scale = random(3, width) * 7, random(width, seed=1)
    assert_near(fused.rms_norm(x, scale, 1e-5), plain.rms_norm(x, scale, 1e-5))


# heads, KV heads, head size, block size
HEADS = {
    "uneven": (6, 2, 8, 16),
    "one key head": (4, 1, 16, 32),
    "every head its own": (3, 3, 24, 32),
    "llama-8B's": (32, 8, 128, 32),
}


def make_cache(
    blocks: int, heads: tuple[int, int, int, int], dtype: torch.dtype, quantised: bool
) -> tuple[LayerCache, LayerCache]:
    """Return two equal caches with random content."""
    _, kv_heads, head_dim, block_size = heads
    found = random(2, blocks, kv_heads, block_size, head_dim, seed=9).to(torch.float8_e4m3fn if quantised else dtype)
    scales = random(2, blocks, kv_heads, block_size, seed=8).abs() + 0.1 if quantised else None

    def one() -> LayerCache:
        keys, values = found.clone()
        return LayerCache(keys, values, None if scales is None else scales.clone())

    return one(), one()


@pytest.mark.parametrize("quantised", [False, True], ids=["", "FP8 KV"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_rope_and_cache(heads: tuple[int, int, int, int], dtype: torch.dtype, quantised: bool) -> None:
    query_heads, kv_heads, head_dim, block_size = heads
    blocks = 4
    cos, sin = rope_table(TransformerConfig(1, query_heads * head_dim, query_heads, kv_heads, 8), 64)
    positions = torch.tensor([0, 1, block_size - 1, block_size, 63])
    kv_index = torch.tensor([block_size, 4 * block_size - 1, 3 * block_size - 1, 2 * block_size, 1])
    x = random(len(kv_index), query_heads + 2 * kv_heads, head_dim)
    if quantised:
        # The interpreter rounds to FP8 wrongly (it loses the carry into the exponent). So the values need no rounding:
        # they include the largest, which makes the scale a power of two, and are rotated by no angle.
        x = (x.sign() * x.abs().clamp(min=0.1) * 64).to(torch.float8_e4m3fn).float()
        x[:, :, 0] = 448
        x, positions = x / 1024, torch.zeros_like(positions)
    qkv = x.flatten(1).to(dtype)
    found, wanted = make_cache(blocks, heads, dtype, quantised)
    q = fused.rope_and_cache(qkv, cos, sin, positions, kv_index, found)
    assert_near(q, plain.rope_and_cache(qkv, cos, sin, positions, kv_index, wanted))
    before, _ = make_cache(blocks, heads, dtype, quantised)
    for ours, theirs, then in ((found.keys, wanted.keys, before.keys), (found.values, wanted.values, before.values)):
        assert_near(ours.float().to(dtype), theirs.float().to(dtype))
        ours, then = (t.float().transpose(1, 2).flatten(0, 1) for t in (ours, then))
        written = (ours != then).flatten(1).any(dim=1)
        assert set(written.nonzero().flatten().tolist()) == set(kv_index.tolist())
    if quantised:
        torch.testing.assert_close(found.scales, wanted.scales)


def make_tiles(tiles: list[tuple[int, int, int, int]], longest: int) -> Tiles:
    """Return the tiles of (sequence, first row, first position, count)."""
    sequence, first_row, first_position, count = torch.tensor(tiles, dtype=torch.int32).T.contiguous()
    return Tiles(sequence, first_row, first_position, count, longest)


@pytest.mark.parametrize("quantised", [False, True], ids=["", "FP8 KV"])
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_attention_of_single_positions(
    heads: tuple[int, int, int, int], splits: int, quantised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first position, the end of a block, the beginning of the next, a partly filled block, and a last position."""
    monkeypatch.setattr(attention, "splits_for", lambda tiles, kv_heads, programs: splits)
    dtype = torch.bfloat16 if splits == 1 else torch.float32
    size = heads[3]
    cache, _ = make_cache(12, heads, dtype, quantised)
    positions = [0, size - 1, size, 2 * size + 5, 3 * size - 1]
    tables = torch.tensor([[1, 0, 0], [2, 0, 0], [3, 4, 0], [7, 5, 6], [8, 9, 11]], dtype=torch.int32)
    tiles = make_tiles([(n, n, position, 1) for n, position in enumerate(positions)], 1)
    q = random(len(positions), heads[0], heads[2], dtype=dtype)
    found = fused.paged_attention(q, cache, tables, tiles)
    assert_near(found, plain.paged_attention(q, cache, tables, tiles))


@pytest.mark.parametrize("quantised", [False, True], ids=["", "FP8 KV"])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_prefill_attention(heads: tuple[int, int, int, int], quantised: bool) -> None:
    """Tiles of 1 to 16 positions, after a cached prefix and without one, across blocks."""
    size = heads[3]
    cache, _ = make_cache(12, heads, torch.float32, quantised)
    tables = torch.tensor([[1, 2, 3], [4, 5, 0], [7, 9, 8]], dtype=torch.int32)
    tiles = make_tiles([(0, 0, size - 3, 16), (0, 16, size + 13, 5), (1, 21, 0, 16), (1, 37, 16, 1), (2, 38, 2, 7)], 16)
    q = random(45, heads[0], heads[2])
    found = fused.paged_attention(q, cache, tables, tiles)
    assert_near(found, plain.paged_attention(q, cache, tables, tiles))


def test_attention_reads_no_later_position() -> None:
    """Later positions and the scratch block have huge values."""
    heads = HEADS["uneven"]
    cache, poisoned = make_cache(3, heads, torch.float32, False)
    tables, q = torch.tensor([[1, 2, 0]], dtype=torch.int32), random(1, 6, 8)
    for position in (0, 15, 16, 20):
        tiles = make_tiles([(0, 0, position, 1)], 1)
        for pool in (poisoned.keys, poisoned.values):
            flat = pool[1:].transpose(1, 2).reshape(32, -1)
            flat[position + 1 :] = 1e30
            pool[1:] = flat.view(2, 16, 2, 8).transpose(1, 2)
            pool[0] = 1e30
        assert_near(fused.paged_attention(q, poisoned, tables, tiles), plain.paged_attention(q, cache, tables, tiles))
        _, poisoned = make_cache(3, heads, torch.float32, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 1, 8), (6, 2, 16), (24, 6, 64)])
def test_depth_attention(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    """Two positions, then one at a time: outputs and caches."""
    rows, positions = 3, 5
    cos, sin = rope_table(TransformerConfig(1, heads * head_dim, heads, kv_heads, 8), positions)
    caches = [torch.full((2, rows, kv_heads, positions, head_dim), torch.nan, dtype=dtype) for _ in range(2)]
    for first in (0, *range(2, positions)):
        new = 2 if first == 0 else 1
        qkv = random(rows * new, (heads + 2 * kv_heads) * head_dim, seed=first, dtype=dtype)
        found, wanted = (
            path.depth_attention(qkv, cache[0], cache[1], cos, sin, first)
            for path, cache in zip((fused, operations("plain")), caches, strict=True)
        )
        assert_near(found, wanted)
        assert_near(caches[0][:, :, :, : first + new], caches[1][:, :, :, : first + new])


@pytest.mark.parametrize(
    ("fused", "codes", "ranks"),
    [(fused, 16, 16), (fused, 64, 64), (fused, 65, 65), (fused, 300, 300), (ONE_PASS, 19, 19), (ONE_PASS, 70, 30)],
)
def test_sample(fused: Operations, codes: int, ranks: int) -> None:
    """Top-k from 1 to all ranks, logits with ties and below zero, noise that is a slice."""
    rows = 9
    logits = random(rows, codes)
    logits[1] = logits[1].round()  # many ties
    logits[2] = -logits[2].abs() - 5
    top_k = torch.tensor([ranks, ranks, ranks, 1, 2, 3, min(50, ranks), ranks // 2, 1])
    temperature = torch.rand(rows, generator=torch.Generator().manual_seed(1)) * 2 + 0.01
    table = random(codes, 5)
    for frame in range(2):
        noise = gumbel_noise(torch.arange(rows), torch.full((rows,), frame), 3, ranks)[:, 1]
        for values in (logits, logits.bfloat16()):
            sampled, taken = fused.sample(values, temperature, top_k, noise, table)
            wanted, _ = plain.sample(values, temperature, top_k, noise, table)
            assert torch.equal(sampled, wanted)
            assert taken is not None
            assert torch.equal(taken, table[sampled])
        last, nothing = fused.sample(logits, temperature, top_k, noise, None)
        assert nothing is None
        assert torch.equal(last, plain.sample(logits, temperature, top_k, noise, None)[0])


@pytest.mark.parametrize("width", [5, 256, 300])
def test_embed_frames(width: int) -> None:
    table = random(3 * 19, width)
    codes = torch.randint(0, 19, (4, 3), generator=torch.Generator().manual_seed(1))
    assert_near(fused.embed_frames(codes, table, 19), plain.embed_frames(codes, table, 19))


def test_few_tiles_split_their_keys() -> None:
    assert [attention.splits_for(tiles, 8, 264) for tiles in (1, 2, 16, 32, 33, 64, 300)] == [16, 16, 4, 2, 1, 1, 1]
