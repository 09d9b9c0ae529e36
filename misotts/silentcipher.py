"""SilentCipher's embedding network (Singh et al. 2024), run column by column with state kept between calls.

Reads the published folder as it is: `hparams.yaml`, `enc_c.ckpt`, `dec_c.ckpt`. The arithmetic is the published one,
rearranged where that saves work and changes nothing: batch normalisation becomes a scale and a shift, a layer's
convolution and gate are one convolution, the carrier and the message enter the decoder once instead of as 32 equal
channels each, and only the bins that the message can touch are computed, with the margin that the kernels see.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml

LOOKAHEAD = 6
"""Columns after its own that a column's mark depends on: one for each 3 x 3 layer of the published network."""


class SilentCipherError(ValueError):
    """A SilentCipher folder that cannot be used."""


@dataclass(frozen=True)
class _GatedLayer:
    """y = scale * conv(x) * sigmoid(gate(x)) + shift."""

    weight: torch.Tensor
    """[2 * out, in, time, frequency]: convolution, then gate."""
    bias: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def load(cls, state: dict[str, torch.Tensor], prefix: str) -> _GatedLayer:
        scale = state[f"{prefix}.bn.weight"] * (state[f"{prefix}.bn.running_var"] + 1e-5).rsqrt()
        weight = torch.cat([state[f"{prefix}.conv.weight"], state[f"{prefix}.gate.weight"]])
        return cls(
            weight=weight.transpose(2, 3).contiguous(),
            bias=torch.cat([state[f"{prefix}.conv.bias"], state[f"{prefix}.gate.bias"]]),
            scale=scale.view(-1, 1, 1),
            shift=(state[f"{prefix}.bn.bias"] - state[f"{prefix}.bn.running_mean"] * scale).view(-1, 1, 1),
        )

    @property
    def columns(self) -> int:
        """Time taps: 3, or 1 for the last layer."""
        return self.weight.shape[2]

    @property
    def channels(self) -> int:
        return self.weight.shape[1]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [batch, in, time, bins] → [batch, out, time - columns + 1, bins]."""
        value, gate = F.conv2d(x, self.weight, self.bias, padding=(0, self.weight.shape[3] // 2)).chunk(2, dim=1)
        return self.scale * value * gate.sigmoid() + self.shift

    def to(self, device: str) -> _GatedLayer:
        return _GatedLayer(*(t.to(device) for t in (self.weight, self.bias, self.scale, self.shift)))


class MarkNetwork:
    """Windows of audio in, windows of mark out, `LOOKAHEAD` columns later, with a slot of state for each stream."""

    def __init__(self, folder: Path, key: bytes, slots: int, device: str = "cpu") -> None:
        hparams = _read_hparams(folder)
        self.hop, self._n_fft = hparams["HOP_LENGTH"], hparams["N_FFT"]
        self._band = hparams["message_band_size"]
        self._attenuation = 10 ** (-36 / 20)  # MisoTTS embeds at 36 dB below the carrier
        self._device, self._slots = device, slots
        encoder, decoder = (_read_state(folder / name) for name in ("enc_c.ckpt", "dec_c.ckpt"))
        self._encoder = _layers(encoder, device)
        self._decoder = _layers(_fold_repeats(decoder, self._encoder[-1].scale.shape[0]), device)
        self._check_layers(folder)
        self._bins = min(self._band + LOOKAHEAD, self._n_fft // 2 + 1)
        self._message = _message_columns(encoder, key).to(device)  # [message length, band]
        self._window = torch.hann_window(self._n_fft, device=device)
        squared = self._window**2
        self._synthesis = self._window / (squared + squared.roll(self.hop))
        self._carrier_rms = float((squared.sum() * 0.002837200844477648).sqrt())
        self._state = self._empty_state()

    @staticmethod
    def read_hop(folder: Path) -> int:
        return int(_read_hparams(folder)["HOP_LENGTH"])

    def _check_layers(self, folder: Path) -> None:
        columns = [layer.columns for layer in (*self._encoder, *self._decoder)]
        expected = [3] * LOOKAHEAD + [1]
        if columns != expected:
            raise SilentCipherError(f"{folder}: the layers' widths in time must be {expected}, they are {columns}")

    def _empty_state(self) -> _State:
        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(self._slots, *shape, device=self._device, dtype=dtype)

        layers = (*self._encoder, *self._decoder[:-1])
        return _State(
            columns=zeros(dtype=torch.int64),
            inputs=[zeros(layer.channels, 2, self._bins) for layer in layers],
            spectra=zeros(LOOKAHEAD, self._n_fft // 2 + 1, dtype=torch.complex64),
            carriers=zeros(len(self._encoder), self._bins),
            gains=zeros(LOOKAHEAD),
        )

    def reset(self, slots: list[int]) -> None:
        """Start new streams in `slots`."""
        for tensor in self._state.tensors():
            tensor[slots] = 0

    def marks(self, slots: list[int], windows: np.ndarray, gains: np.ndarray) -> np.ndarray:
        """Run the next columns of some streams.

        windows float32 [n, columns, 2 * hop], the audio at 44.1 kHz; gains float32 [n, columns], what brings it to the
        loudness the network knows. Returns the marks of the columns `LOOKAHEAD` before, to be overlap-added at the
        windows' places, float32 [n, columns, 2 * hop]; a stream's first `LOOKAHEAD` marks belong to no column.
        """
        state = self._state.rows(torch.tensor(slots, device=self._device))
        spectra = torch.fft.rfft(torch.from_numpy(windows).to(self._device) * self._window)
        gain = torch.from_numpy(gains).to(self._device)
        carrier = spectra[..., : self._bins].abs() * gain.unsqueeze(-1)
        info = self._run_layers(carrier, state)
        spectra, state.spectra = _delay(spectra, state.spectra)
        gain, state.gains = _delay(gain, state.gains)
        # The message is taken out of the carrier, never more of it than there is.
        magnitude = torch.minimum(
            info * (self._carrier_rms / gain.clamp(min=1e-12)).unsqueeze(-1), spectra[..., : self._band].abs()
        )
        mark = torch.zeros_like(spectra)
        mark[..., : self._band] = -magnitude * torch.sgn(spectra[..., : self._band])
        state.columns += windows.shape[1]
        self._state.store(torch.tensor(slots, device=self._device), state)
        return (torch.fft.irfft(mark, n=self._n_fft) * self._synthesis).cpu().numpy()

    def _run_layers(self, carrier: torch.Tensor, state: _State) -> torch.Tensor:
        """Magnitudes [n, columns, bins] → the message's magnitudes [n, columns, band], relative to the carrier's RMS,
        for the columns `LOOKAHEAD` before."""
        time = state.columns.unsqueeze(1) + torch.arange(carrier.shape[1], device=carrier.device)
        x = carrier.unsqueeze(1)
        for number, layer in enumerate(self._encoder):
            x = self._run_layer(layer, x, state, number, time - number - 1)
        seen = len(self._encoder)
        late, state.carriers = _delay(carrier, state.carriers)
        message = self._message[(time - seen) % len(self._message)]
        message = F.pad(message, (0, self._bins - self._band)) * (time >= seen).unsqueeze(-1)
        x = torch.cat([x, late.unsqueeze(1), message.unsqueeze(1)], dim=1)
        for number, layer in enumerate(self._decoder[:-1], start=seen):
            x = self._run_layer(layer, x, state, number, time - number - 1)
        info = self._decoder[-1](x)[:, 0, :, : self._band].abs()
        power = info.square().sum(dim=-1, keepdim=True) / (self._n_fft // 2 + 1)
        return info * power.clamp(min=1e-24).rsqrt() * self._attenuation

    def _run_layer(
        self, layer: _GatedLayer, x: torch.Tensor, state: _State, number: int, out_time: torch.Tensor
    ) -> torch.Tensor:
        """One 3 x 3 layer: each output column stands one column earlier. Columns before the stream's start are the
        zeros of the published network's padding, not what the layer makes of zeros."""
        x = torch.cat([state.inputs[number], x], dim=2)
        state.inputs[number] = x[:, :, -2:]
        return layer(x) * (out_time >= 0).view(len(x), 1, -1, 1)


@dataclass
class _State:
    """What the network keeps of each stream, one row per slot."""

    columns: torch.Tensor
    """int64 [slots]: columns seen."""
    inputs: list[torch.Tensor]
    """Of each 3 x 3 layer [slots, channels, 2, bins]: the last two input columns."""
    spectra: torch.Tensor
    """complex64 [slots, LOOKAHEAD, n_fft / 2 + 1]: columns whose mark is not known yet."""
    carriers: torch.Tensor
    """[slots, encoder layers, bins]: network inputs that the decoder has not seen yet."""
    gains: torch.Tensor
    """[slots, LOOKAHEAD]."""

    def tensors(self) -> list[torch.Tensor]:
        return [self.columns, *self.inputs, self.spectra, self.carriers, self.gains]

    def rows(self, slots: torch.Tensor) -> _State:
        columns, *inputs, spectra, carriers, gains = (t[slots] for t in self.tensors())
        return _State(columns, inputs, spectra, carriers, gains)

    def store(self, slots: torch.Tensor, rows: _State) -> None:
        for mine, theirs in zip(self.tensors(), rows.tensors(), strict=True):
            mine[slots] = theirs


def _delay(x: torch.Tensor, queue: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Put x [n, columns, ...] behind queue [n, delay, ...]; return what comes out and the new queue."""
    both = torch.cat([queue, x], dim=1)
    return both[:, : x.shape[1]], both[:, x.shape[1] :]


def _read_hparams(folder: Path) -> dict[str, int]:
    try:
        return yaml.safe_load((folder / "hparams.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SilentCipherError(f"no SilentCipher at {folder}: hparams.yaml is missing") from None


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise SilentCipherError(f"no SilentCipher at {path.parent}: {path.name} is missing")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
        raise SilentCipherError(f"{path} is damaged or holds no weights") from None
    return {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}


def _layers(state: dict[str, torch.Tensor], device: str) -> list[_GatedLayer]:
    count = len({name.split(".")[1] for name in state if name.startswith("main.")})
    return [_GatedLayer.load(state, f"main.{n}").to(device) for n in range(count)]


def _fold_repeats(state: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """The published network feeds its decoder `width` channels of encoding, then the carrier `width` times, then the
    message `width` times: equal channels are one channel with the sum of their weights."""
    folded = dict(state)
    for name in ("main.0.conv.weight", "main.0.gate.weight"):
        encoding, carrier, message = state[name].split(width, dim=1)
        folded[name] = torch.cat([encoding, carrier.sum(1, keepdim=True), message.sum(1, keepdim=True)], dim=1)
    return folded


def _message_columns(encoder: dict[str, torch.Tensor], key: bytes) -> torch.Tensor:
    """What each column carries [message length, band]: the key's two-bit symbols, high bits first, then the start
    symbol."""
    bits = "".join(f"{byte:08b}" for byte in key)
    symbols = [int(bits[i : i + 2], 2) + 1 for i in range(0, len(bits), 2)] + [0]
    return encoder["linear.weight"].T[symbols] + encoder["linear.bias"]
