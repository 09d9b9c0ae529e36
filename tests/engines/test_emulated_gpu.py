"""The CUDA paths, on an emulated GPU (`emulated_gpu`): devices, dtypes, waits, late codes, captured graphs."""

import ctypes
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.costs.codec import decode, watermark
from benchmarks.costs.engines import ENGINES
from benchmarks.costs.floors import Rates
from benchmarks.costs.generate import frame, generate
from benchmarks.costs.section import Section
from benchmarks.costs.sizes import SMALL
from benchmarks.gpu_suite.frames import frames
from benchmarks.gpu_suite.kernels import kernels
from benchmarks.gpu_suite.rates import rates
from demo.model import CONFIG, make_mimi_weights, make_silentcipher, make_weights
from misotts.config import FRAME_SAMPLES, MASKED, ModelConfig
from misotts.decode.decoder import Decoder
from misotts.engines import tensorrt_depth
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.choices import Choices
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine, bucket_shapes
from misotts.engines.graph.operations import operations
from misotts.engines.interface import Limits, Sampling
from misotts.engines.manifest import Manifest, depth_hash
from misotts.engines.table import tensorrt_depth_folder
from misotts.engines.two_part import TwoPart
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.mimi import build_mimi
from misotts.order import Order
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker
from tests.support.emulated_gpu import EmulatedGpu
from tests.support.models import tiny_config
from tests.support.scripted import Inbox

TINY = tiny_config(audio_vocab_size=35, max_seq_len=256)
FRAMES = 9


def make_generator(device: str, dtype: torch.dtype) -> Generator:
    torch.manual_seed(0)
    weights = make_weights(TINY)
    embedding = Embedding(weights, TINY, device, dtype)
    depth = TorchDepth(weights, TINY, embedding)
    backbone = TorchBackbone(weights, TINY, 40, 32, device, dtype)
    engine = TwoPart(TINY, embedding, backbone, depth, max_streams=3)
    return Generator(TINY, engine, Limits(max_streams=3, step_positions=64))


def speak(generator: Generator) -> list[np.ndarray]:
    """Generate frames of text and audio prompts, some prefilled in chunks beside frames of others, greedy and not."""
    rng = np.random.default_rng(0)
    heard = []
    for seed, length in enumerate((3, 70, 100, 40)):
        prompt = np.full((length, TINY.frame_columns), MASKED, np.int32)
        half = length // 2
        prompt[:half, -1] = rng.integers(0, TINY.text_vocab_size, half)
        prompt[half:, :-1] = rng.integers(0, TINY.audio_codes, (length - half, TINY.audio_num_codebooks))
        heard.append(Inbox(generator))
        order = Order(prompt, FRAMES, seed, temperature=0.9 if seed % 2 else 0.0, top_k=20)
        generator.submit(Utterance(order), heard[-1])
        generator.step()
    for _ in range(100):
        generator.step()
        generator.deliver()
        if all(inbox.finish for inbox in heard):
            return [np.array(inbox.codes) for inbox in heard]
    raise AssertionError("the utterances did not end")


def test_frames_are_those_of_the_cpu(emulated_gpu: EmulatedGpu) -> None:
    expected = speak(make_generator("cpu", torch.float32))
    found = speak(make_generator("cuda", torch.float32))
    assert [len(codes) for codes in found] == [FRAMES] * 4
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_bfloat16_runs_to_the_end(emulated_gpu: EmulatedGpu) -> None:
    found = speak(make_generator("cuda", torch.bfloat16))
    assert [codes.shape for codes in found] == [(FRAMES, TINY.audio_num_codebooks)] * 4
    assert all((codes >= 0).all() and (codes < TINY.audio_codes).all() for codes in found)


def test_no_step_waits_for_the_device(emulated_gpu: EmulatedGpu) -> None:
    """Neither frames nor prefill chunks: the host launches a step while the device works on the previous one."""
    generator = make_generator("cuda", torch.float32)
    emulated_gpu.waits.clear()
    speak(generator)
    assert emulated_gpu.waits == []
    torch.ones(2).to("cuda")
    assert emulated_gpu.waits == ["a copy to the device"], "the emulated GPU records a wait"


def test_the_loop_has_a_stream_of_its_own(emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = make_generator("cuda", torch.float32)
    running: list[str] = []

    @contextmanager
    def stream(name: str) -> Iterator[None]:
        running.append(name)
        yield
        running.append("default")

    def step() -> bool:
        assert running == ["own"]
        return False

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: "own")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(generator, "step", step)
    generator.start()
    generator.close()
    assert generator.failure is None
    assert running == ["own", "default"]


class Tensorrt:
    """TensorRT's module as far as the depth engine calls it. Its engine is the eager depth decoder, which finds its
    inputs by the addresses that it is given."""

    __name__, __version__ = "tensorrt", "10"

    class Logger:
        WARNING = 0

        def __init__(self, level: int) -> None:
            pass

    def __init__(self, depth: TorchDepth) -> None:
        self.depth = depth
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def Runtime(self, logger: object) -> "Tensorrt":  # noqa: N802 (TensorRT's name)
        return self

    def deserialize_cuda_engine(self, engine: bytes) -> "Tensorrt":
        return self

    def create_execution_context(self) -> "Tensorrt":
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        with torch._C.DisableTorchFunction():
            sampling = Sampling(self.read("temperature"), self.read("top_k", ctypes.c_int64), self.read("noise"))
            codes, embedding = self.depth.forward(self.read("hidden"), sampling)
            self.shapes |= {"codes": tuple(codes.shape), "embedding": tuple(embedding.shape)}
            self.read("codes", ctypes.c_int64).copy_(codes)
            self.read("embedding").copy_(embedding)
        return True

    def read(self, name: str, kind: Any = ctypes.c_float) -> torch.Tensor:
        shape = self.shapes[name]
        memory = (kind * math.prod(shape)).from_address(self.addresses[name])
        return torch.from_numpy(np.ctypeslib.as_array(memory).reshape(shape))


def test_no_step_of_the_tensorrt_depth_decoder_waits(
    emulated_gpu: EmulatedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = speak(make_generator("cpu", torch.float32))
    torch.manual_seed(0)
    weights = make_weights(TINY)
    library = Tensorrt(TorchDepth(weights, TINY, Embedding(weights, TINY)))
    for name, value in {"tensorrt_library": lambda: library, "gpu_here": lambda: "9.0"}.items():
        monkeypatch.setattr(tensorrt_depth, name, value)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=1))
    folder = tensorrt_depth_folder(tmp_path, "float32", 3)
    folder.path.mkdir(parents=True)
    (folder.path / tensorrt_depth.ENGINE).write_bytes(b"")
    made_with, limits = tensorrt_depth.release(library), {"streams": 3}
    Manifest(depth_hash(weights, TINY), "float32", made_with, "9.0", limits).save(folder.path)
    embedding = Embedding(weights, TINY, "cuda")
    depth = tensorrt_depth.TensorrtDepth(tmp_path, weights, TINY, torch.float32, 3)
    backbone = TorchBackbone(weights, TINY, 40, 32, "cuda", torch.float32)
    engine = TwoPart(TINY, embedding, backbone, depth, max_streams=3)
    emulated_gpu.waits.clear()
    found = speak(Generator(TINY, engine, Limits(max_streams=3, step_positions=64)))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert emulated_gpu.waits == []


def make_captured() -> Generator:
    torch.manual_seed(0)
    weights, plain = make_weights(TINY), operations("plain")
    embedding = Embedding(weights, TINY, "cuda")
    depth = GraphDepth(weights, TINY, embedding, plain)
    backbone = GraphBackbone(weights, TINY, 40, 32, plain, "cuda", torch.float32)
    engine = GraphEngine(TINY, embedding, backbone, depth, max_streams=3)
    return Generator(TINY, engine, Limits(max_streams=3, step_positions=64))


def test_replayed_frames_are_the_torch_engines(emulated_gpu: EmulatedGpu) -> None:
    expected = speak(make_generator("cpu", torch.float32))
    generator = make_captured()
    assert len(emulated_gpu.graphs) == len(bucket_shapes(3, TINY.audio_codes))
    emulated_gpu.waits.clear()
    found = speak(generator)
    assert [len(codes) for codes in found] == [FRAMES] * 4
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert emulated_gpu.waits == [], "a step waited for the device"
    assert sum(graph.replays for graph in emulated_gpu.graphs) >= FRAMES
    assert len(emulated_gpu.graphs) == len(bucket_shapes(3, TINY.audio_codes)), "a graph was captured while speaking"
    assert all(graph.replays for graph in emulated_gpu.graphs[:-1]), "a bucket was not used"


CUTS = [(1, 1, 1)] * 4 + [(2, 2, 0)] * 3 + [(1, 0, 0)] * 3 + [(3, 1, 2), (7, 0, 0)] + [(1, 1, 1)] * 2
"""Frames of three streams in each call."""
REPLAYS = [7, 2, 3]
"""Replays of the graphs of three rows and one frame, two rows and two frames, one row and one frame."""
PACKED_REPLAYS = [6, 2, 3]
"""If rows are packed, the two streams with a second frame in (3, 1, 2) need a call of two rows, not of three."""


def decode_all(decoder: Decoder, slots: Sequence[int]) -> list[np.ndarray]:
    codes = np.random.default_rng(1).integers(0, 2048, (3, 40, 32)).astype(np.int32)
    at = [0, 0, 0]
    audio: list[list[np.ndarray]] = [[], [], []]
    for number, cut in enumerate(CUTS):
        pieces = []
        for stream, count in enumerate(cut):
            begins = number == 0 or (stream == 1 and number == 5)
            pieces.append(Piece(slots[stream], begins, codes[stream, at[stream] : at[stream] + count]))
            at[stream] += count
        for stream, out in enumerate(decoder.decode(pieces)):
            audio[stream].append(out)
    return [np.concatenate(parts) for parts in audio]


def mimi_maker() -> Callable[[], Any]:
    """Return a function that makes Mimi with the same weights each time."""
    config = ModelConfig.from_dict(CONFIG)
    torch.manual_seed(0)
    weights = make_mimi_weights(config)

    def mimi() -> Any:
        network = build_mimi(config)
        network.load_state_dict(weights)
        return network.eval().requires_grad_(False)

    return mimi


@pytest.mark.parametrize(
    ("slots", "replays"), [((0, 1, 2), REPLAYS), ((15, 4, 9), PACKED_REPLAYS)], ids=["first rows", "packed"]
)
def test_decoding_through_graphs_sounds_like_the_cpu(
    emulated_gpu: EmulatedGpu, slots: tuple[int, ...], replays: list[int]
) -> None:
    mimi = mimi_maker()
    expected = decode_all(Decoder(mimi(), 3), range(3))
    found = decode_all(Decoder(mimi().to("cuda"), 3 if max(slots) < 3 else 16), slots)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert [graph.replays for graph in emulated_gpu.graphs] == replays


@pytest.mark.parametrize("slots", [(0, 1, 2), (15, 4, 9)], ids=["first rows", "packed"])
def test_nothing_is_captured_after_the_start(emulated_gpu: EmulatedGpu, slots: tuple[int, ...]) -> None:
    """A capture while callers listen would stop all of them."""
    mimi = mimi_maker()
    expected = decode_all(Decoder(mimi(), 3), range(3))
    decoder = Decoder(mimi().to("cuda"), 16)
    decoder.prepare()
    captured = len(emulated_gpu.graphs)
    assert captured == 4 * (5 + 3), "1, 2, 4, 8, 16 rows, of which three may be packed, of 1 to 4 frames"
    for a, b in zip(decode_all(decoder, slots), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert len(emulated_gpu.graphs) == captured


def test_moshi_compiles_nothing_whichever_module_comes_first() -> None:
    program = "import misotts.decode.decoder, moshi.modules.rope as r; print(hasattr(r.apply_rope, '__wrapped__'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_marks_are_those_of_the_cpu(emulated_gpu: EmulatedGpu, tmp_path: Path) -> None:
    make_silentcipher(tmp_path / "silentcipher")
    audio = np.random.default_rng(2).normal(0, 0.1, (3, 20 * FRAME_SAMPLES)).astype(np.float32)

    def mark_all(watermarker: Watermarker) -> np.ndarray:
        marked: list[list[np.ndarray]] = [[], [], []]
        for first, last in ((0, 1), (1, 4), (4, 9), (9, 20)):
            cut = audio[:, first * FRAME_SAMPLES : last * FRAME_SAMPLES]
            pieces = [Piece(slot, first == 0, cut[slot], last == 20) for slot in (2, 0, 1)]
            for piece, out in zip(pieces, watermarker.mark(pieces), strict=True):
                marked[piece.slot].append(out)
        return np.stack([np.concatenate(parts) for parts in marked])

    expected = mark_all(Watermarker(tmp_path, 3))
    found = mark_all(Watermarker(tmp_path, 3, device="cuda"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


SECTIONS = [frames, rates, *(partial(generate, engine=name) for name in ENGINES), decode, watermark]
SECTIONS += [partial(frame, engine="graph"), partial(kernels, pdl=True)]


@pytest.mark.long
@pytest.mark.parametrize("run", SECTIONS)
def test_the_gpu_suite_runs_on_it(emulated_gpu: EmulatedGpu, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the parts of the suite that need a GPU: bfloat16, memory, graphs; each once, because times mean nothing
    here."""
    for name, value in {"WARM_UP": 0, "FEWEST": 1}.items():
        monkeypatch.setattr(f"benchmarks.costs.timing.{name}", value)
    monkeypatch.setattr("benchmarks.gpu_suite.kernels.CHOICES", {"int8": {"pdl": Choices(pdl=True)}})
    for name in ("STREAMS", "FRAMES"):
        monkeypatch.setattr(f"benchmarks.gpu_suite.frames.{name}", 2)
    sizes = replace(SMALL, repeats=1)
    sent: list[tuple[str, str, Any]] = []
    section = Section("cuda", sizes, Rates(1e9, {"bfloat16": 1e9}), math.inf, lambda *what: sent.append(what))
    run(section)
    assert [what for what in sent if what[0] == "check" and not what[2]["ok"]] == []
    assert any(kind == "row" for kind, _, _ in sent) != (run is frames)
