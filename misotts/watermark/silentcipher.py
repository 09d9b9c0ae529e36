"""Reads a SilentCipher folder (Singh et al. 2024) as published: `hparams.yaml`, `enc_c.ckpt`, `dec_c.ckpt` and
`dec_m_0.ckpt`.

`mark_network` runs the first two networks over streams, `read_network` the third over clips.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml

from misotts.files import file_fault
from misotts.watermark.key import SYMBOLS_PER_KEY

SPEECH_POWER = 0.002837200844477648
"""Mean power to which SilentCipher scales the audio that it marks or reads (that of its training speech, VCTK)."""

BATCH_NORM_EPS = 1e-5


class SilentCipherError(ValueError):
    """A SilentCipher folder that cannot be used."""


@dataclass(frozen=True)
class SilentCipherConfig:
    """`hparams.yaml`. The fields with defaults are missing in the published file, and the defaults describe it."""

    SR: int
    """Sample rate of the network, Hz."""
    N_FFT: int
    HOP_LENGTH: int
    message_band_size: int
    """Number of bins from 0 Hz on that carry the message."""
    message_dim: int
    message_len: int
    enc_n_layers: int
    dec_c_n_layers: int
    n_messages: int = 1
    enc_conv_dim: int = 32
    dec_c_conv_dim: int = 96
    dec_m_conv_dim: int = 128
    dec_m_n_layers: int = 10
    lookahead: int | None = None
    """Number of 3 x 3 layers, from the first on, that see the next column; the others see only earlier ones. None means
    all."""
    delay_frames: int | None = None
    """Number of frames that a stream holds back from its start on. Columns without a known mark by then stay unmarked.
    None means that a stream starts at once, with early marks, and that the hold-back grows to as many frames as every
    column's mark needs."""

    @classmethod
    def load(cls, folder: Path) -> SilentCipherConfig:
        """Read `folder/hparams.yaml`.

        Raises:
            SilentCipherError: it is missing or has unsupported values.
        """
        if fault := file_fault(folder / "hparams.yaml"):
            raise SilentCipherError(f"no SilentCipher at {folder}: hparams.yaml {fault}")
        try:
            raw = yaml.safe_load((folder / "hparams.yaml").read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            raise SilentCipherError(f"{folder}/hparams.yaml is not a YAML file") from None
        if not isinstance(raw, dict):
            raise SilentCipherError(f"{folder}/hparams.yaml must contain a mapping")
        known = {field.name: raw[field.name] for field in fields(cls) if field.name in raw}
        for name, value in known.items():
            if type(value) is not int and not (value is None and name in ("lookahead", "delay_frames")):
                raise SilentCipherError(f"{folder}/hparams.yaml: {name} must be a whole number, it is {value!r}")
        try:
            config = cls(**known)
        except TypeError as error:
            raise SilentCipherError(f"{folder}/hparams.yaml: {str(error).partition(') ')[2]}") from None
        for problem in config._problems(raw):
            raise SilentCipherError(f"{folder}/hparams.yaml: {problem}")
        return config

    @property
    def wide_layers(self) -> int:
        """Number of 3 x 3 layers between audio and mark."""
        return self.enc_n_layers + self.dec_c_n_layers - 1

    @property
    def columns_ahead(self) -> int:
        """Number of later columns that a column's mark depends on."""
        return self.wide_layers if self.lookahead is None else self.lookahead

    @property
    def bins(self) -> int:
        """Number of bins in a column."""
        return self.N_FFT // 2 + 1

    def _problems(self, raw: Mapping[str, Any]) -> list[str]:
        required = {
            "message_dim": 5,
            "message_len": SYMBOLS_PER_KEY + 1,
            "n_messages": 1,
            "HOP_LENGTH": self.N_FFT // 2,
            "ensure_negative_message": True,
            "utterance_level_normalization": True,
            "frame_level_normalization": False,
            "no_normalization": False,
        }
        wrong = [f"{name} must be {v}, it is {raw[name]}" for name, v in required.items() if raw.get(name, v) != v]
        if not 8_000 <= self.SR <= 48_000:
            wrong.append(f"SR must be 8000 to 48000, it is {self.SR}")
        if not 0 < self.message_band_size <= self.bins:
            wrong.append(f"message_band_size must be 1 to {self.bins}, it is {self.message_band_size}")
        if not 0 <= self.columns_ahead <= self.wide_layers:
            wrong.append(f"lookahead must be 0 to {self.wide_layers}, it is {self.lookahead}")
        if self.delay_frames is not None and self.delay_frames < 0:
            wrong.append(f"delay_frames must not be negative, it is {self.delay_frames}")
        return wrong


@dataclass(frozen=True)
class GatedLayer:
    """A convolution, its gate, and batch normalisation with its trained statistics:
    y = scale * conv(x) * sigmoid(gate(x)) + shift."""

    weight: torch.Tensor
    """[2 * out, in, time, frequency]: the convolution's, times scale, then the gate's."""
    bias: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def load(cls, state: Mapping[str, torch.Tensor], prefix: str, device: str) -> GatedLayer:
        scale = state[f"{prefix}.bn.weight"] * (state[f"{prefix}.bn.running_var"] + BATCH_NORM_EPS).rsqrt()
        weight = torch.cat([state[f"{prefix}.conv.weight"] * scale.view(-1, 1, 1, 1), state[f"{prefix}.gate.weight"]])
        return cls(
            weight=weight.transpose(2, 3).contiguous(memory_format=layout(device)).to(device),
            bias=torch.cat([state[f"{prefix}.conv.bias"] * scale, state[f"{prefix}.gate.bias"]]).to(device),
            shift=(state[f"{prefix}.bn.bias"] - state[f"{prefix}.bn.running_mean"] * scale).view(-1, 1, 1).to(device),
        )

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return self.weight.shape[1]

    def __call__(self, x: torch.Tensor, time_padding: int = 0) -> torch.Tensor:
        """Run x [batch, in, time, bins] → [batch, out, time - taps + 1 + 2 * time_padding, bins]."""
        order, padding = layout(x.device.type), (time_padding, self.weight.shape[3] // 2)
        both = F.conv2d(x.contiguous(memory_format=order), self.weight, self.bias, padding=padding)
        value, gate = both.chunk(2, dim=1)
        # The copy of the gate is faster than a sigmoid of every second piece of memory, as in glu.
        return torch.addcmul(self.shift, value, gate.contiguous(memory_format=order).sigmoid_())


def layout(device: str) -> torch.memory_format:
    """Return the order in memory of a convolution's tensors: on the CPU channels last, because PyTorch would otherwise
    copy each of them into an order of its own and back."""
    return torch.channels_last if device == "cpu" else torch.contiguous_format


def read_encoder(folder: Path, config: SilentCipherConfig) -> dict[str, torch.Tensor]:
    """Read `enc_c.ckpt` and check its tensors."""
    widths = [1] + [config.enc_conv_dim] * config.enc_n_layers
    shapes = _layer_shapes(range(config.enc_n_layers), widths, [3] * config.enc_n_layers)
    shapes["linear.weight"] = (config.message_band_size, config.message_dim)
    shapes["linear.bias"] = (config.message_band_size,)
    return _read_state(folder / "enc_c.ckpt", shapes)


def read_carrier_decoder(folder: Path, config: SilentCipherConfig) -> dict[str, torch.Tensor]:
    """Read `dec_c.ckpt` and check its tensors."""
    layers = config.dec_c_n_layers
    widths = [3 * config.enc_conv_dim] + [config.dec_c_conv_dim] * (layers - 1) + [1]
    return _read_state(folder / "dec_c.ckpt", _layer_shapes(range(layers), widths, [3] * (layers - 1) + [1]))


def read_message_decoder(folder: Path, config: SilentCipherConfig) -> dict[str, torch.Tensor]:
    """Read `dec_m_0.ckpt` and check its tensors. Its layers have the odd numbers; Dropouts have the even ones."""
    layers = config.dec_m_n_layers
    widths = [1] + [config.dec_m_conv_dim] * (layers - 1) + [config.message_dim]
    shapes = _layer_shapes(range(1, 2 * layers, 2), widths, [3] * layers)
    shapes["linear.weight"], shapes["linear.bias"] = (1, config.message_band_size), (1,)
    return _read_state(folder / "dec_m_0.ckpt", shapes)


def _layer_shapes(numbers: range, widths: list[int], kernels: list[int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number, width_in, width_out, kernel in zip(numbers, widths[:-1], widths[1:], kernels, strict=True):
        for part in ("conv", "gate"):
            shapes[f"main.{number}.{part}.weight"] = (width_out, width_in, kernel, kernel)
            shapes[f"main.{number}.{part}.bias"] = (width_out,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"main.{number}.bn.{name}"] = (width_out,)
    return shapes


def _read_state(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    if fault := file_fault(path):
        raise SilentCipherError(f"no SilentCipher at {path.parent}: {path.name} {fault}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, AttributeError):
        raise SilentCipherError(f"{path} is damaged or contains no weights") from None
    if missing := [name for name in shapes if name not in state]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SilentCipherError(f"{path}: missing: {missing[0]}{more}")
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            found = list(state[name].shape)
            raise SilentCipherError(f"{path}: {name} is {found}, hparams.yaml says it must be {list(shape)}")
        if not state[name].isfinite().all():
            raise SilentCipherError(f"{path}: {name} contains NaN or infinity")
    return {name: state[name] for name in shapes}
