"""Kyutai's Mimi codec as moshi builds it: 24 kHz mono audio <-> frames of codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from moshi.models import loaders
from moshi.models.compression import MimiModel
from moshi.modules.streaming import StreamingContainer
from moshi.modules.transformer import RingKVCache
from msgspec.structs import asdict

from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.files import file_fault
from misotts.model.mimi_layout import is_transformers_mimi, moshi_tensors
from misotts.model.weight_files import CheckpointError, one_line, open_weights

PIECE_FRAMES = 125
"""Number of frames that are encoded in one call, 10 s. A clip of minutes in one call would take gigabytes, and longer
than a stage may work without reporting progress."""


def build_mimi(config: ModelConfig) -> MimiModel:
    """Return Mimi at the model's sizes, with random weights."""
    return loaders.get_mimi(None, _sizes(config), num_codebooks=config.audio_num_codebooks)


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """Return the sizes of the published codec (79.3 M parameters), with those of `config.mimi`."""
    published: dict[str, Any] = loaders._mimi_config
    return published | {name: published[name] | asdict(part) for name, part in asdict(config.mimi).items()}


def load_mimi(folder: Path, config: ModelConfig, device: str = "cpu") -> MimiModel:
    """Return Mimi with the weights of `folder/mimi.safetensors`: see `read_mimi`."""
    return read_mimi(Path(folder) / "mimi.safetensors", config).to(device)


def read_mimi(path: Path, config: ModelConfig) -> MimiModel:
    """Return Mimi with the weights of a file in moshi's or Transformers' layout, in evaluation mode, without gradients.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or contains another codec; the message is one line.
    """
    if fault := file_fault(path):
        raise CheckpointError(f"no codec at {path}: it {fault}")
    mimi, tensors = build_mimi(config), open_weights(path)
    if is_transformers_mimi(tensors):
        tensors = moshi_tensors(tensors, mimi.state_dict().keys(), _sizes(config)["transformer"]["num_heads"])
    try:
        mimi.load_state_dict(tensors)
    except RuntimeError as error:  # the first line is a title, each further one lists names of one fault
        faults = [shorten(line, 200, placeholder=" ...") for line in str(error).splitlines()[1:]]
        raise CheckpointError(f"{path} does not fit the codec of config.json: {one_line(faults)}") from None
    return mimi.eval().requires_grad_(False)


@torch.inference_mode()
def encode(
    mimi: MimiModel, audio: npt.NDArray[np.float32], pause: Callable[[], None] = lambda: None
) -> npt.NDArray[np.int32]:
    """Encode a clip, float32 [samples] at 24 kHz → codes int32 [frames, codebooks]; the last frame is padded with
    silence. A codec encodes one clip at a time.

    A clip of more than `PIECE_FRAMES` is encoded in pieces. `pause` is called between them; an exception from it ends
    the encoding.
    """
    wave = torch.from_numpy(audio).to(next(mimi.parameters()).device)
    wave = F.pad(wave, (0, -len(wave) % FRAME_SAMPLES)).view(1, 1, -1)
    first, *others = torch.split(wave, PIECE_FRAMES * FRAME_SAMPLES, dim=-1)
    if not others:
        return _codes(mimi.encode(first))
    network = _MimiEncoder(mimi)
    with network.streaming(1):
        steps = PIECE_FRAMES * round(mimi.encoder_frame_rate / mimi.frame_rate)
        enlarge_rings(network.get_streaming_state().values(), steps)
        codes = [_codes(network(first))]
        for piece in others:
            pause()
            codes.append(_codes(network(piece)))
    return np.concatenate(codes)


def _codes(codes: torch.Tensor) -> npt.NDArray[np.int32]:
    return codes[0].T.to("cpu", torch.int32).numpy()


class _MimiEncoder(StreamingContainer):
    """Mimi's encoder alone: `mimi.encode` without its CUDA graphs."""

    def __init__(self, mimi: MimiModel) -> None:
        super().__init__()
        assert mimi.encoder_transformer is not None
        self.encoder, self.transformer = mimi.encoder, mimi.encoder_transformer
        self.downsample, self.quantizer = mimi.downsample, mimi.quantizer

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        (latent,) = self.transformer(self.encoder(audio))
        return self.quantizer.encode(self.downsample(latent))


def enlarge_rings(states: Iterable[Any], steps: int) -> None:
    """Let the new states of a streaming network hold `steps` more than the attention's context.

    moshi's ring holds exactly the context, so a call of several steps overwrites the oldest keys before its first steps
    have read them. After 10 s of audio the result would depend on how the stream is cut, and the write of a masked row
    would overwrite keys that it still needs.
    """
    for state in states:
        if ring := getattr(state, "kv_cache", None):
            _, rows, heads, capacity, width = ring.cache.shape
            device, dtype = ring.cache.device, ring.cache.dtype
            state.kv_cache = RingKVCache(rows, heads, width, capacity + steps, device=device, dtype=dtype)
