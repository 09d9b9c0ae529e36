"""SilentCipher's embedding network, run column by column with state kept between calls.

The arithmetic is the published one, rearranged to save work without changing the result: batch normalisation becomes a
scale and a shift, a layer's convolution and gate are one convolution, the carrier and the message enter the decoder as
one channel each instead of 32 equal ones, and only the bins that the message can change are computed, with the margin
of the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from misotts.watermark.key import symbols_of
from misotts.watermark.silentcipher import (
    SPEECH_POWER,
    GatedLayer,
    SilentCipherConfig,
    read_carrier_decoder,
    read_encoder,
)

ATTENUATION = 10 ** (-36 / 20)
"""MisoTTS embeds at 36 dB below the carrier."""

LOUDNESS_PRIOR_S = 0.25
"""A stream starts as if this much speech of `SPEECH_POWER` had come before it."""

POWER_FLOOR = 1e-8


class MarkNetwork:
    """Turns the audio under windows into marks, `config.columns_ahead` columns later, with a slot of state for each
    stream."""

    def __init__(self, folder: Path, key: bytes, slots: int, device: str = "cpu") -> None:
        self.config = config = SilentCipherConfig.load(folder)
        encoder, decoder = read_encoder(folder, config), read_carrier_decoder(folder, config)
        decoder = _fold_repeats(decoder, config.enc_conv_dim)
        self._device, self._slots = device, slots
        self._encoder = [GatedLayer.load(encoder, f"main.{n}", device) for n in range(config.enc_n_layers)]
        self._decoder = [GatedLayer.load(decoder, f"main.{n}", device) for n in range(config.dec_c_n_layers)]
        self._band = config.message_band_size
        self._bins = min(self._band + config.wide_layers, config.bins)
        symbols = symbols_of(key)
        message = encoder["linear.weight"].T[symbols] + encoder["linear.bias"]  # [message length, band]
        self._message = F.pad(message, (0, self._bins - self._band)).to(device)
        self._window = torch.hann_window(config.N_FFT, device=device)
        squared = self._window**2
        self._synthesis = self._window / (squared + squared.roll(config.HOP_LENGTH))
        self._carrier_rms = float((squared.sum() * SPEECH_POWER).sqrt())
        self._state = self._empty_state()

    def _empty_state(self) -> _State:
        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(self._slots, *shape, device=self._device, dtype=dtype)

        ahead = self.config.columns_ahead
        layers = (*self._encoder, *self._decoder[:-1])
        return _State(
            columns=zeros(dtype=torch.int64),
            power=zeros(dtype=torch.float64),
            inputs=[zeros(layer.channels, 2, self._bins) for layer in layers],
            spectra=zeros(ahead, self._band, dtype=torch.complex64),
            carriers=zeros(min(ahead, len(self._encoder)), self._bins),
            gains=zeros(ahead),
        )

    def reset(self, slots: list[int]) -> None:
        """Start new streams in `slots`."""
        for tensor in self._state.tensors():
            tensor[slots] = 0

    @torch.inference_mode()
    def marks(
        self,
        slots: list[int],
        audio: npt.NDArray[np.float32],
        wanted: npt.NDArray[np.bool_],
        keep: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Run the next columns of some streams. Without `keep` the state stays that from before them, and a slot may
        occur several times.

        audio float32 [n, (columns + 1) * hop] is under the columns' windows, at the network's rate. Returns the sum of
        the marks of the columns `columns_ahead` earlier, of those that are `wanted` [n, columns]: float32
        [n, (columns + 1) * hop], which begins where the first one's window does. A stream's first `columns_ahead` marks
        belong to no column.
        """
        rows, hop = torch.tensor(slots, device=self._device), self.config.HOP_LENGTH
        state, samples = self._state.rows(rows), torch.from_numpy(audio).to(self._device)
        spectra = torch.fft.rfft(samples.unfold(1, 2 * hop, hop) * self._window)[..., : self._bins]
        gain = self._gains(samples, state)
        info = self._run_layers(spectra.abs() * gain.unsqueeze(-1), state)
        spectra, state.spectra = _delay(spectra[..., : self._band], state.spectra)
        gain, state.gains = _delay(gain, state.gains)
        # The message is subtracted from the carrier, never more than the carrier's magnitude.
        magnitude = torch.minimum(info * (self._carrier_rms / gain.clamp(min=1e-12)).unsqueeze(-1), spectra.abs())
        magnitude *= torch.from_numpy(wanted).to(self._device).unsqueeze(-1)
        mark = F.pad(-magnitude * torch.sgn(spectra), (0, self.config.bins - self._band))
        state.columns += wanted.shape[1]
        if keep:
            self._state.store(rows, state)
        first_half, second_half = (torch.fft.irfft(mark, n=self.config.N_FFT) * self._synthesis).split(hop, dim=-1)
        summed = F.pad(first_half, (0, 0, 0, 1))
        summed[:, 1:] += second_half
        marks: npt.NDArray[np.float32] = summed.flatten(1).cpu().numpy()
        return marks

    def _gains(self, audio: torch.Tensor, state: _State) -> torch.Tensor:
        """Return for each column the gain that brings the audio up to its window's end to the loudness of the network's
        training, [n, columns]."""
        new = audio.unflatten(1, (-1, self.config.HOP_LENGTH))[:, 1:]
        power = state.power.unsqueeze(1) + torch.linalg.vecdot(new, new).double().cumsum(1)
        state.power = power[:, -1]
        columns = state.columns.unsqueeze(1) + torch.arange(1, power.shape[1] + 1, device=audio.device)
        prior = int(LOUDNESS_PRIOR_S * self.config.SR)
        mean = (power + SPEECH_POWER * prior) / (columns * self.config.HOP_LENGTH + prior)
        gains: torch.Tensor = (SPEECH_POWER / mean.clamp(min=POWER_FLOOR)).sqrt().float()
        return gains

    def _run_layers(self, carrier: torch.Tensor, state: _State) -> torch.Tensor:
        """Magnitudes [n, columns, bins] → the message's magnitudes [n, columns, band] for the columns `columns_ahead`
        earlier, relative to the carrier's RMS."""
        time = state.columns.unsqueeze(1) + torch.arange(carrier.shape[1], device=carrier.device)
        x = carrier.unsqueeze(1)
        for number, layer in enumerate(self._encoder):
            x = self._run_layer(layer, x, state, number, time)
        late, state.carriers = _delay(carrier, state.carriers)
        message_time = time - self._columns_behind(len(self._encoder) - 1)
        message = self._message[message_time % len(self._message)] * (message_time >= 0).unsqueeze(-1)
        x = torch.cat([x, late.unsqueeze(1), message.unsqueeze(1)], dim=1)
        for number, layer in enumerate(self._decoder[:-1], start=len(self._encoder)):
            x = self._run_layer(layer, x, state, number, time)
        info = self._decoder[-1](x)[:, 0, :, : self._band].abs()
        power = info.square().sum(dim=-1, keepdim=True) / self.config.bins
        return info * power.clamp(min=1e-24).rsqrt() * ATTENUATION

    def _run_layer(
        self, layer: GatedLayer, x: torch.Tensor, state: _State, number: int, time: torch.Tensor
    ) -> torch.Tensor:
        """Run one 3 x 3 layer. Its output is zero before the stream's start, as the published network's padding is."""
        x = torch.cat([state.inputs[number], x], dim=2)
        state.inputs[number] = x[:, :, -2:]
        return layer(x).mul_((time >= self._columns_behind(number)).view(len(x), 1, -1, 1))

    def _columns_behind(self, number: int) -> int:
        """Number of columns by which layer `number`'s output is late: one for each layer that looks ahead."""
        return min(number + 1, self.config.columns_ahead)


@dataclass
class _State:
    """The network's state, one row per slot."""

    columns: torch.Tensor
    """int64 [slots]: number of columns so far."""
    power: torch.Tensor
    """float64 [slots]: sum of the squares of their samples."""
    inputs: list[torch.Tensor]
    """[slots, channels, 2, bins] for each 3 x 3 layer: its last two input columns."""
    spectra: torch.Tensor
    """complex64 [slots, columns ahead, band]: columns without a known mark."""
    carriers: torch.Tensor
    """[slots, columns ahead of the encoder, bins]: network inputs that have not reached the decoder."""
    gains: torch.Tensor
    """[slots, columns ahead]: gains of the columns in `spectra`."""

    def tensors(self) -> list[torch.Tensor]:
        return [self.columns, self.power, *self.inputs, self.spectra, self.carriers, self.gains]

    def rows(self, slots: torch.Tensor) -> _State:
        columns, power, *inputs, spectra, carriers, gains = (t[slots] for t in self.tensors())
        return _State(columns, power, inputs, spectra, carriers, gains)

    def store(self, slots: torch.Tensor, rows: _State) -> None:
        for mine, theirs in zip(self.tensors(), rows.tensors(), strict=True):
            mine[slots] = theirs


def _delay(x: torch.Tensor, queue: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Append x [n, columns, ...] to queue [n, delay, ...]; return the first columns and the new queue."""
    both = torch.cat([queue, x], dim=1)
    return both[:, : x.shape[1]], both[:, x.shape[1] :]


def _fold_repeats(state: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Replace equal input channels of the decoder by one with the sum of their weights. Published are `width` channels
    of encoding, then the carrier `width` times, then the message `width` times."""
    folded = dict(state)
    for name in ("main.0.conv.weight", "main.0.gate.weight"):
        encoding, carrier, message = torch.split(state[name], width, dim=1)
        folded[name] = torch.cat([encoding, carrier.sum(1, keepdim=True), message.sum(1, keepdim=True)], dim=1)
    return folded
