"""With our tables the plugin's program (`tests/support/plugin.py`) computes torch's hidden states."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.backbone import convert_backbone
from misotts.config import MASKED, ModelConfig
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.interface import Batch, Limits
from misotts.engines.table import Variant
from misotts.engines.tensorrt_llm.tables import constant_tables, pool_shape, step_tables
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.model.checkpoint import Checkpoint
from misotts.order import Order
from tests.support.models import ignore
from tests.support.plugin import PluginEngine, Tables
from tests.support.utterances import eager_parts, generate, make_generator

TOLERANCE = 2e-5
BLOCK = 32
BLOCKS = 60
STREAMS = 4


@pytest.fixture(scope="module")
def model(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with weights that are exact in bfloat16, so that its checkpoint has no rounding, and with norms
    that differ."""
    folder = tmp_path_factory.mktemp("bfloat16") / "demo"
    folder.mkdir()
    (folder / "config.json").write_text((demo_folder / "config.json").read_text())
    weights = load_file(demo_folder / "model.safetensors")
    torch.manual_seed(1)
    for name, weight in weights.items():
        if name.endswith("scale"):
            weight += torch.randn_like(weight) * 0.2
        weights[name] = weight.bfloat16().float()
    save_file(weights, folder / "model.safetensors")
    return folder


class Compared:
    """The torch backbone and, for comparison, the plugin's program with the tables of the same batches."""

    block_size, num_blocks = BLOCK, BLOCKS

    def __init__(self, model: Path, spoil: Callable[[Tables], None] = lambda tables: None) -> None:
        """`spoil` may change the tables."""
        config = ModelConfig.load(model)
        backbone = config.backbone
        self.model, self.config = model, config
        self.torch = TorchBackbone(Checkpoint(model, config), config, BLOCKS, BLOCK)
        shape = pool_shape(BLOCKS, backbone.num_layers, backbone.num_kv_heads, BLOCK, backbone.head_dim)
        self.pool = np.full(np.prod(shape), np.nan, np.float32)  # shows reads before writes
        self.blocks = self.pool.reshape(shape)
        checkpoint = convert_backbone(model, Variant(), ignore)
        self.plugin = PluginEngine(checkpoint, self.pool, BLOCK)
        self.constants = constant_tables(backbone.num_layers, config.max_seq_len, STREAMS, self.pool.ctypes.data)
        self.spoil = spoil
        self.batches: list[Batch] = []
        self.errors: list[float] = []

    def forward(self, batch: Batch) -> torch.Tensor:
        wanted = self.torch.forward(batch)
        step = step_tables(batch, self.config.backbone.num_layers)
        tables = {name: np.ascontiguousarray(table).copy() for name, table in (self.constants | step.tables).items()}
        self.spoil(tables)
        found = self.plugin.run(batch.inputs[torch.from_numpy(step.positions)], tables)
        self.batches.append(batch)
        self.errors.append(float((found[torch.from_numpy(step.sequences)] - wanted).abs().nan_to_num(torch.inf).max()))
        return wanted


def converse(engine: Compared) -> Generator:
    """Run seven utterances in four slots: prompts with lengths around a block's, two of them with a common prefix, and
    prefill chunks of at most 64 positions beside sequences that generate."""
    parts = replace(eager_parts(engine.model), backbone=engine)
    generator = make_generator(parts, Limits(max_streams=STREAMS, step_positions=67))
    config, utterances = engine.config, []
    random = np.random.default_rng(0)
    voice = random.integers(0, config.text_vocab_size, 70)
    for number, length in enumerate((1, 33, 300, 32, 130, 5, 97)):
        prompt = np.full((length, config.frame_columns), MASKED, np.int32)
        prompt[:, -1] = random.integers(0, config.text_vocab_size, length)
        if length >= 97:
            prompt[:70, -1] = voice
        utterances.append(Utterance(Order(prompt, 12, seed=number)))
    generate(generator, utterances)
    return generator


@pytest.fixture(scope="module")
def conversation(model: Path) -> tuple[Compared, Generator]:
    engine = Compared(model)
    return engine, converse(engine)


def test_every_step_has_the_torch_engines_hidden_states(conversation: tuple[Compared, Generator]) -> None:
    engine, generator = conversation
    print(f"{len(engine.errors)} steps, largest difference {max(engine.errors):.1e}")
    assert max(engine.errors) < TOLERANCE
    assert_same_pools(engine)
    # The batches had all kinds of sequences.
    single = [(batch.lengths == 1) & (batch.starts > 0) for batch in engine.batches]
    chunks = [(batch.lengths > 1) & (batch.starts > 0) for batch in engine.batches]
    assert any(d.any() and p.any() for d, p in zip(single, chunks, strict=True)), (
        "a later chunk beside single positions"
    )
    assert any((batch.lengths > 1).sum() > 1 for batch in engine.batches), "two prompts in one step"
    assert any(len(d) == STREAMS and d.all() for d in single), "single positions only"
    assert any((batch.lengths == 1)[batch.starts == 0].any() for batch in engine.batches), "a prompt of one position"
    assert any(((batch.starts % BLOCK == 0) & d).any() for batch, d in zip(engine.batches, single, strict=True))
    assert generator.core.scheduler.pool.shared, "a prefix that was computed before"


def assert_same_pools(engine: Compared) -> None:
    """Compare the plugin's pool, in its documented layout, with the eager engine's. (Keys are up to 10, and rotated by
    angles in float32 here and in float64 there.)"""
    wanted = engine.torch._pool.numpy()  # [layers, 2, blocks, kv_heads, positions, head_dim]
    assert np.abs(np.nan_to_num(engine.blocks[1:]).transpose(1, 2, 0, 3, 4, 5) - wanted[:, :, 1:]).max() < 2e-4
    assert np.isnan(engine.blocks[0]).all(), "the scratch block is for a real plugin's padding"


def change(name: str, by: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tables], None]:
    def spoil(tables: Tables) -> None:
        tables[name] = np.ascontiguousarray(by(tables[name]), dtype=tables[name].dtype)
        for twin in ("kv_cache_block_offsets", "context_lengths"):
            if name == twin:
                tables[f"host_{twin}"] = tables[name].copy()

    return spoil


def spoil_begin(tables: Tables) -> None:
    """Set the length before the chunk in place of the length with it, an easy mistake."""
    context = tables["host_request_types"] == 0
    tables["host_past_key_value_lengths"][context] -= tables["host_context_lengths"][context]


def spoil_past(tables: Tables) -> None:
    """Leave out one more position."""
    tables["host_past_key_value_lengths"][tables["host_request_types"] == 1] -= 1


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(spoil_begin, id="begin without the chunk"),
        pytest.param(spoil_past, id="a generation's past too short"),
        pytest.param(change("last_token_ids", lambda t: np.maximum(t - 1, 1)), id="last tokens counted from 0"),
        pytest.param(change("sequence_length", lambda t: t + 1), id="one position further"),
        pytest.param(change("host_request_types", lambda t: t[::-1]), id="generation first"),
        pytest.param(change("kv_cache_block_offsets", lambda t: t // 2), id="no room for values"),
        pytest.param(change("kv_cache_block_offsets", lambda t: t // 8), id="blocks of one layer"),
        pytest.param(change("host_kv_cache_pool_mapping", lambda t: t * 0), id="all layers in one"),
        pytest.param(change("host_kv_cache_pool_pointers", lambda t: t[:, ::-1]), id="the pool on the host"),
    ],
)
def test_wrong_tables_change_the_hidden_states(model: Path, spoil: Callable[[Tables], None]) -> None:
    engine = Compared(model, spoil)
    try:
        converse(engine)
    except (AssertionError, RuntimeError, IndexError, ValueError):
        return
    assert max(engine.errors) > 0.01


def test_the_tables_of_a_batch_computed_by_hand() -> None:
    """Four sequences of a model of 3 layers with blocks of 4: a single position 5, a whole prompt of 2, the second
    chunk of a prompt (4 to 8), a single position 8."""
    batch = Batch(
        inputs=torch.empty(0),
        lengths=np.array([1, 2, 4, 1], np.int32),
        starts=np.array([5, 0, 4, 8], np.int32),
        blocks=np.array([[7, 2, 0], [3, 0, 0], [1, 4, 0], [5, 6, 8]], np.int32),
    )
    step = step_tables(batch, num_layers=3)
    assert step.positions.tolist() == [1, 2, 3, 4, 5, 6, 0, 7]
    assert step.sequences.tolist() == [2, 0, 1, 3]
    tables = {name: table.tolist() for name, table in step.tables.items()}
    assert tables.pop("kv_cache_block_offsets") == tables.pop("host_kv_cache_block_offsets")
    assert step.tables["kv_cache_block_offsets"].tolist() == [
        [
            [[18, 0, 0], [19, 1, 1]],
            [[6, 24, 0], [7, 25, 1]],
            [[42, 12, 0], [43, 13, 1]],
            [[30, 36, 48], [31, 37, 49]],
        ]
    ]
    assert tables == {
        "host_request_types": [0, 0, 1, 1],
        "last_token_ids": [2, 6, 7, 8],
        "sequence_length": [2, 8, 6, 9],
        "host_past_key_value_lengths": [2, 8, 5, 8],
        "context_lengths": [2, 4, 5, 8],
        "host_context_lengths": [2, 4, 5, 8],
    }
    assert {table.dtype for table in step.tables.values()} == {np.dtype(np.int32)}
