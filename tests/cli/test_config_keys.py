"""Every key of config.json, in both forms and at every nesting: `prepare`, `info` and `serve` refuse what is not
allowed in one line that names the key, what is allowed and what came."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from moshi.models import loaders
from msgspec.structs import asdict
from typer.testing import CliRunner, Result

from benchmarks.csm_peer import peer_config
from misotts.cli.main import app
from misotts.config import FLAVORS, MimiConfig, ModelConfig
from tests.support.models import copy_of

Path_ = tuple[str, ...]


def full(config: ModelConfig) -> dict[str, Any]:
    """Our form with every key that there is."""
    raw = config.to_dict()
    mimi = json.loads(json.dumps({name: asdict(part) for name, part in asdict(config.mimi).items()}))
    return raw | {"mimi": mimi, "sampling": {"temperature": 0.5, "top_k": 20}}


def csm(config: ModelConfig) -> dict[str, Any]:
    """Transformers' form, with the keys that are read and some others."""
    raw: dict[str, Any] = json.loads(peer_config(config).to_json_string()) | {"mimi": full(config)["mimi"]}
    for part in (raw, raw["depth_decoder_config"]):
        part |= {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "rope_theta": 500_000.0}
    return raw


def leaves(raw: dict[str, Any], above: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    for key, value in raw.items():
        yield (*above, key), value
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))


def changed(raw: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    new = deepcopy(raw)
    part = new
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return new


def wrong_values(value: Any) -> list[Any]:
    """Values of other types and out of any limit. An integer may stand for a number, nothing else for anything else."""
    if isinstance(value, bool):
        return [0, 1, "false", None, 1.0]
    if isinstance(value, int | float):
        return [True, str(value), None, [value], 10**13, -1, float("1e300"), *([0.5] if isinstance(value, int) else [])]
    if isinstance(value, str):
        return [7, True, None, "another"]
    if isinstance(value, list):
        return [7, None, [], ["7"], value * 2]
    return [7, "7", None, [], {**value, "surplus": 1}]


def refused(result: Result, path: Path_) -> bool:
    lines = result.stderr.splitlines()
    return result.exit_code == 1 and len(lines) == 1 and path[-1] in lines[0] and not result.stdout


def prepare(model: Path, config: Path, target: Path) -> Result:
    files = [f"--{name}={model / file}" for name, file in FILES.items()]
    return CliRunner().invoke(app, ["prepare", str(target), f"--weights={model}", f"--config={config}", *files])


FILES = {"tokenizer": "tokenizer.json", "mimi": "mimi.safetensors", "silentcipher": "silentcipher"}
MAY_BE_NULL = {
    *("rope_theta", "rope_parameters", "head_dim", "temperature", "top_k"),
    *(("depth_decoder_config", key) for key in ("num_codebooks", "vocab_size", "backbone_hidden_size")),
}
CSM_KEYS = {
    *("text_vocab_size", "vocab_size", "num_codebooks", "depth_decoder_config", "max_position_embeddings", "mimi"),
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
    *("rms_norm_eps", "rope_theta", "head_dim", "hidden_act", "attention_bias", "mlp_bias", "backbone_hidden_size"),
}
"""Keys of Transformers' form that are read, beside those in `rope_parameters` and `mimi`, which all are."""


def is_read(path: Path_) -> bool:
    if path[0] == "codec_config" or path == ("depth_decoder_config", "max_position_embeddings"):
        return False
    return path[-1] in CSM_KEYS or path[0] == "mimi" or "rope_parameters" in path[:-1]


def may_be(value: Any, path: Path_) -> bool:
    return value is None and bool({path[-1], path} & MAY_BE_NULL)


@pytest.fixture
def model(demo_folder: Path, tmp_path: Path) -> Path:
    return copy_of(demo_folder, tmp_path / "model")


@pytest.mark.long
def test_every_key_of_our_form(model: Path, demo_folder: Path) -> None:
    raw = full(ModelConfig.load(demo_folder))
    (model / "config.json").unlink()
    tried = 0
    for path, value in leaves(raw):
        for wrong in wrong_values(value):
            if may_be(wrong, path):
                continue
            (model / "config.json").write_text(json.dumps(changed(raw, path, wrong)))
            assert refused(CliRunner().invoke(app, ["info", f"--model={model}"]), path), (path, wrong)
            tried += 1
    assert tried > 150


@pytest.mark.long
def test_every_key_of_transformers_form(model: Path, demo_folder: Path, tmp_path: Path) -> None:
    raw = csm(ModelConfig.load(demo_folder))
    tried = 0
    for path, value in leaves(raw):
        if not is_read(path):
            continue
        for wrong in wrong_values(value):
            if may_be(wrong, path) or (isinstance(wrong, dict) and "depth_decoder_config" in path):
                continue
            (tmp_path / "config.json").write_text(json.dumps(changed(raw, path, wrong)))
            assert refused(prepare(model, tmp_path / "config.json", tmp_path / "made"), path), (path, wrong)
            tried += 1
    assert tried > 150
    assert not (tmp_path / "made").exists()


CASES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a number in quotes": lambda raw: raw | {"norm_eps": "1e-5"},
    "a truth in quotes": lambda raw: raw | {"speaker_space": "false"},
    "a number for a truth": lambda raw: raw | {"speaker_space": 0},
    "a truth for a number": lambda raw: raw | {"max_seq_len": True},
    "no codec": lambda raw: raw | {"mimi": None},
    "rope without base": lambda raw: raw | {"rope_base": 0},
    "rope by its other name": lambda raw: raw | {"rope_scaling": None},
    "a context of a billion": lambda raw: raw | {"max_seq_len": 1_000_000_000},
    "an unknown key": lambda raw: raw | {"max_seq_length": 2048},
    "an unknown key in a part": lambda raw: raw | {"backbone": {**raw["backbone"], "n_heads": 4}},
    "an unknown flavour": lambda raw: raw | {"decoder": "llama-30M"},
    "a flavour twice": lambda raw: raw | {"decoder_flavor": "llama-300M"},
    "a missing key": lambda raw: {key: value for key, value in raw.items() if key != "audio_vocab_size"},
    "a missing part": lambda raw: {key: value for key, value in raw.items() if key != "decoder"},
    "codes that the codec lacks": lambda raw: raw | {"audio_vocab_size": 2050},
    "codebooks that the codec lacks": lambda raw: raw | {"audio_num_codebooks": 33},
    "heads that do not divide": lambda raw: raw | {"backbone": {**raw["backbone"], "num_heads": 7}},
    "a list": lambda raw: [raw],
}


@pytest.mark.parametrize("case", CASES)
def test_prepare_info_and_serve_say_the_same(
    case: str, model: Path, tmp_path: Path, pinned_text: Callable[..., None]
) -> None:
    config = model / "config.json"
    raw = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps(CASES[case](raw)))
    serve = ["serve", f"--model={model}", "--allow-reference-key"]
    results = [
        CliRunner().invoke(app, ["info", f"--model={model}"]),
        CliRunner().invoke(app, serve),
        prepare(model, config, tmp_path / "made"),
    ]
    lines = {result.stderr.replace(str(config), "config.json") for result in results}
    assert [result.exit_code for result in results] == [1, 1, 1]
    assert len(lines) == 1, lines
    pinned_text(lines.pop().strip())


def test_a_key_that_stands_twice_and_a_number_that_json_does_not_have(model: Path) -> None:
    (model / "config.json").unlink()
    for text, words in (('{"mimi": {}, "mimi": {}}', "'mimi'"), ('{"norm_eps": NaN}', "NaN")):
        (model / "config.json").write_text(text)
        (line,) = CliRunner().invoke(app, ["info", f"--model={model}"]).stderr.splitlines()
        assert words in line


def test_the_flavours_and_the_shared_keys(demo_folder: Path) -> None:
    raw = json.loads((demo_folder / "config.json").read_text())
    flavored = ModelConfig.from_dict(raw | {"backbone": "llama-1B", "norm_eps": 1e-6, "rope_base": 10_000})
    assert flavored.backbone.num_layers == FLAVORS["llama-1B"]["num_layers"]
    assert (flavored.depth.norm_eps, flavored.backbone.rope_base) == (1e-6, 10_000.0)
    own = ModelConfig.from_dict(raw | {"norm_eps": 1e-6, "decoder": {**raw["decoder"], "norm_eps": 1e-4}})
    assert (own.backbone.norm_eps, own.depth.norm_eps) == (1e-6, 1e-4)


def test_the_defaults_of_the_codec_are_the_published_ones() -> None:
    for name, part in asdict(MimiConfig()).items():
        for key, value in asdict(part).items():
            parts: Any = loaders._mimi_config
            published = parts[name][key]
            assert value == (tuple(published) if isinstance(published, list) else published), (name, key)
