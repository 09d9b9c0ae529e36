"""Downloaded files become a complete, working model folder or none, in little memory."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from llama_models.llama3 import tokenizer as meta
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from benchmarks.csm_peer import make_peer, peer_config
from demo.model import CONFIG as DEMO
from demo.model import make_weights
from misotts.cli.model_folder import Downloads, make_model_folder
from misotts.cli.prepare import prepare
from misotts.config import ConfigError, ModelConfig
from misotts.model.checkpoint import Checkpoint, tensor_shapes
from misotts.model.weight_files import CheckpointError
from misotts.synthesizer import Synthesizer
from misotts.watermark.silentcipher import SilentCipherError
from tests.support.mimi_peer import make_mimi_peer
from tests.support.models import ignore


@pytest.fixture
def downloads(demo_folder: Path) -> Downloads:
    """The random model's own files."""
    return Downloads(
        weights=demo_folder,
        tokenizer=demo_folder / "tokenizer.json",
        mimi=demo_folder / "mimi.safetensors",
        silentcipher=demo_folder / "silentcipher",
        config=demo_folder / "config.json",
    )


def test_the_prepared_folder_has_the_same_model(downloads: Downloads, demo_folder: Path, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    make_model_folder(tmp_path / "model", downloads, lambda *report: reports.append(report))
    config = ModelConfig.load(demo_folder)
    assert ModelConfig.load(tmp_path / "model") == config
    for name in ("model.safetensors", "mimi.safetensors"):
        made, given = load_file(tmp_path / "model" / name), load_file(demo_folder / name)
        assert made.keys() == given.keys()
        assert all(torch.equal(made[key], given[key]) for key in given)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {name for name, _, _ in reports} == {"model.safetensors"}
    assert [written for _, written, _ in reports] == sorted(written for _, written, _ in reports)
    assert reports[-1][1] == reports[-1][2] == sum(math.prod(shape) * 4 for shape in tensor_shapes(config).values())


def test_a_model_from_other_layouts_speaks(downloads: Downloads, tmp_path: Path) -> None:
    """Make a folder from Transformers' bfloat16 weights, config and Mimi, and Meta's tokenizer, with 4 codebooks."""
    sizes = dict(DEMO, text_vocab_size=128256, audio_num_codebooks=4)
    config = ModelConfig.from_dict(sizes)
    torch.manual_seed(0)
    weights = {name: tensor.bfloat16() for name, tensor in make_weights(config).items()}
    make_peer(weights, config).bfloat16().save_pretrained(tmp_path / "csm")
    raw = json.loads(peer_config(config).to_json_string())
    (tmp_path / "csm" / "config.json").write_text(json.dumps(raw | {"mimi": DEMO["mimi"]}))
    make_mimi_peer().save_pretrained(tmp_path / "mimi")
    others = Downloads(
        weights=tmp_path / "csm",
        tokenizer=Path(meta.__file__).with_name("tokenizer.model"),
        mimi=tmp_path / "mimi" / "model.safetensors",
        silentcipher=downloads.silentcipher,
        config=tmp_path / "csm" / "config.json",
    )
    make_model_folder(tmp_path / "model", others, ignore)
    found = Checkpoint(tmp_path / "model", ModelConfig.load(tmp_path / "model"))
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    with Synthesizer.load(tmp_path / "model") as synthesizer:
        audio = synthesizer.speak("Hello.", max_audio_ms=800, seed=1)
    assert np.isfinite(audio).all()
    assert audio.std() > 0


def cut(path: Path, to: Path) -> Path:
    to.write_bytes(path.read_bytes()[:-100])
    return to


def wrong_weights(downloads: Downloads, folder: Path) -> Downloads:
    tensors = load_file(downloads.weights / "model.safetensors")
    del tensors["projection.weight"]
    save_file(tensors, folder / "less.safetensors")
    return replace(downloads, weights=folder / "less.safetensors")


def wrong_silentcipher(downloads: Downloads, folder: Path) -> Downloads:
    shutil.copytree(downloads.silentcipher, folder / "silentcipher")
    (folder / "silentcipher" / "dec_m_0.ckpt").unlink()
    return replace(downloads, silentcipher=folder / "silentcipher")


def damaged_silentcipher(downloads: Downloads, folder: Path) -> Downloads:
    shutil.copytree(downloads.silentcipher, folder / "silentcipher")
    cut(downloads.silentcipher / "dec_c.ckpt", folder / "silentcipher" / "dec_c.ckpt")
    return replace(downloads, silentcipher=folder / "silentcipher")


FAULTS = {
    "no weights": (lambda d, f: replace(d, weights=f), CheckpointError, "no weights"),
    "less weights": (wrong_weights, CheckpointError, "missing: projection.weight"),
    "cut mimi": (lambda d, f: replace(d, mimi=cut(d.mimi, f / "m.safetensors")), CheckpointError, "truncated"),
    "weights for mimi": (
        lambda d, f: replace(d, mimi=d.weights / "model.safetensors"),
        CheckpointError,
        "does not fit the codec of config.json",
    ),
    "no tokenizer": (lambda d, f: replace(d, tokenizer=f / "tokenizer.json"), ConfigError, "no tokenizer at"),
    "no json": (lambda d, f: replace(d, tokenizer=cut(d.tokenizer, f / "t.json")), ConfigError, "not a tokenizer.json"),
    "config is a list": (lambda d, f: replace(d, config=d.tokenizer), ConfigError, "text_vocab_size"),
    "no config": (lambda d, f: replace(d, config=f / "config.json"), ConfigError, "config.json is missing"),
    "no silentcipher": (
        lambda d, f: replace(d, silentcipher=f),
        SilentCipherError,
        "hparams.yaml is missing, enc_c.ckpt is missing",
    ),
    "part of silentcipher": (wrong_silentcipher, SilentCipherError, "dec_m_0.ckpt is missing"),
    "damaged silentcipher": (damaged_silentcipher, SilentCipherError, "dec_c.ckpt"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_names_the_fault_and_no_folder_is_left(fault: str, downloads: Downloads, tmp_path: Path) -> None:
    change, error, words = FAULTS[fault]
    given, made = tmp_path / "given", tmp_path / "made"
    given.mkdir()
    with pytest.raises(error, match=words):
        make_model_folder(made / "model", change(downloads, given), ignore)
    assert list(made.iterdir()) == []


def test_an_interruption_leaves_no_folder(downloads: Downloads, tmp_path: Path) -> None:
    def interrupt(name: str, written: int, total: int) -> None:
        if written > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_model_folder(tmp_path / "model", downloads, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_a_folder_once(downloads: Downloads, demo_folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(prepare)
    arguments = [str(tmp_path / "model"), "--weights", str(demo_folder)]
    for name in ("tokenizer", "mimi", "silentcipher"):
        arguments += [f"--{name}", str(getattr(downloads, name))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "is ready" in result.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "already exists" in again.output
    assert (tmp_path / "model" / "config.json").is_file()


MEASURE = """
import sys, threading
from pathlib import Path
import psutil
from misotts.config import ModelConfig
from misotts.model.checkpoint import Checkpoint, tensor_shapes
from misotts.model.weight_files import save_weights

def anonymous():
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared

source, target = map(Path, sys.argv[1:])
config = ModelConfig.load(source)
start = peak = anonymous()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
save_weights(target, Checkpoint(source, config), lambda size: None)
done.set()
watcher.join()
print(peak - start)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_gigabytes_are_prepared_in_little_memory(tmp_path: Path) -> None:
    """Transformers' layout needs the most memory, because rows of q and k are permuted. The source is a sparse file:
    only the process's own memory counts."""
    sizes = dict(
        text_vocab_size=16384,
        audio_vocab_size=2051,
        audio_num_codebooks=32,
        backbone=dict(num_layers=3, embed_dim=2048, num_heads=16, num_kv_heads=4, intermediate_dim=5632),
        decoder="llama-100M",
    )
    config = ModelConfig.from_dict(sizes)
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    with torch.device("meta"):
        peer = make_peer({name: torch.empty(shape) for name, shape in tensor_shapes(config).items()}, config)
    size = write_hollow(tmp_path / "model.safetensors", {n: tuple(t.shape) for n, t in peer.state_dict().items()})
    assert size > 2e9
    target = tmp_path / "out.safetensors"
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(target)]
    held = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{size / 2**20:.0f} MiB prepared, {held / 2**20:.1f} MiB held at most")
    assert target.stat().st_size > 1e9
    assert held < 0.05 * size


def write_hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Write a safetensors file of zeros that takes no space on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[start, end])
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)
    return path.stat().st_size
