"""Both published layouts of Mimi give the same codec."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MimiModel

from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.decode.decoder import Decoder
from misotts.mimi import PIECE_FRAMES, build_mimi, encode, read_mimi
from misotts.model.weight_files import CheckpointError
from misotts.slots import Piece
from tests.support.mimi_peer import make_mimi_peer

FRAMES = 150
"""12 s, more than the 10 s of Mimi's attention."""


@pytest.fixture(scope="module")
def peer() -> MimiModel:
    return make_mimi_peer()


@pytest.fixture(scope="module")
def peer_file(peer: MimiModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mimi as Transformers writes it, in the layout of `kyutai/mimi`."""
    folder = tmp_path_factory.mktemp("mimi")
    peer.save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.mark.parametrize("frames", [1, 12, FRAMES])
def test_transformers_layout_gives_transformers_codes_and_audio(
    peer: MimiModel, peer_file: Path, config: ModelConfig, frames: int
) -> None:
    mimi = read_mimi(peer_file, config)
    audio = np.random.default_rng(0).normal(0, 0.1, frames * FRAME_SAMPLES).astype(np.float32)
    with torch.inference_mode():
        expected = peer.encode(torch.from_numpy(audio).view(1, 1, -1)).audio_codes
        sound = peer.decode(expected).audio_values[0, 0].numpy()
    codes = encode(mimi, audio)
    same = float((codes == expected[0].T.numpy()).mean())
    (ours,) = Decoder(mimi, slots=1).decode([Piece(0, True, expected[0].T.numpy())])
    distance = np.abs(ours - sound).max() / sound.std()
    print(f"{frames} frames: {same:.5f} of the codes equal, audio within {distance:.1e} of its RMS")
    assert same == 1.0
    assert ours.shape == sound.shape
    assert distance < 1e-5


@pytest.mark.parametrize("frames", [2 * PIECE_FRAMES, 3 * PIECE_FRAMES - 20])
def test_a_long_clip_gives_the_same_codes_in_pieces(peer_file: Path, config: ModelConfig, frames: int) -> None:
    mimi = read_mimi(peer_file, config)
    audio = np.random.default_rng(1).normal(0, 0.1, frames * FRAME_SAMPLES - 700).astype(np.float32)
    padded = torch.from_numpy(np.pad(audio, (0, 700))).view(1, 1, -1)
    with torch.inference_mode():
        expected = mimi.encode(padded)[0].T.numpy()
    pauses: list[int] = []
    codes = encode(mimi, audio, lambda: pauses.append(1))
    same = float((codes == expected).mean())
    print(f"{frames} frames: {same:.5f} of the codes equal")
    assert codes.dtype == np.int32
    assert codes.shape == expected.shape
    assert same == 1.0
    assert len(pauses) == -(-frames // PIECE_FRAMES) - 1


def test_an_interrupted_clip_leaves_the_codec_unchanged(peer_file: Path, config: ModelConfig) -> None:
    mimi = read_mimi(peer_file, config)
    audio = np.random.default_rng(2).normal(0, 0.1, 2 * PIECE_FRAMES * FRAME_SAMPLES).astype(np.float32)

    def interrupt() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        encode(mimi, audio, interrupt)
    short = audio[: 10 * FRAME_SAMPLES]
    with torch.inference_mode():
        expected = mimi.encode(torch.from_numpy(short).view(1, 1, -1))[0].T.numpy()
    assert np.array_equal(encode(mimi, short), expected)
    assert np.array_equal(encode(mimi, audio)[:10], expected)


def test_moshis_published_names_are_read(config: ModelConfig, tmp_path: Path) -> None:
    """The published file has older names for the attention's projections."""
    state = build_mimi(config).state_dict()
    published = {
        name.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.", "out_proj."): tensor
        for name, tensor in state.items()
    }
    assert any(name.endswith("self_attn.in_proj_weight") for name in published)
    save_file(published, tmp_path / "mimi.safetensors")
    found = read_mimi(tmp_path / "mimi.safetensors", config).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_another_codec_is_refused_with_every_difference(config: ModelConfig, peer_file: Path, tmp_path: Path) -> None:
    for name, source in {"moshi": build_mimi(config).state_dict(), "transformers": load_file(peer_file)}.items():
        tensors = dict(source)
        del tensors[next(key for key in tensors if key.endswith("0.norm1.weight") or "0.input_layernorm.w" in key)]
        tensors["extra.weight"] = torch.zeros(2)
        key = next(key for key in tensors if key.startswith("upsample"))
        tensors[key] = torch.zeros(3, 1, 4)
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(CheckpointError) as caught:
            read_mimi(tmp_path / f"{name}.safetensors", config)
        for fault in ("layers.0.norm1.weight", "extra.weight", "upsample.convtr.convtr.convtr.weight"):
            assert fault in str(caught.value)
    with pytest.raises(CheckpointError, match="no codec"):
        read_mimi(tmp_path / "not_there.safetensors", config)
