"""SilentCipher's three networks for training: the published architecture at any width, with the published tensor names.

At the published sizes the arithmetic is that of the `silentcipher` package. Two things differ: widths come from
`hparams.yaml`, and a 3 x 3 layer may look back two columns instead of one to each side, so that the mark of a column
does not wait for later columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import nn

from misotts.watermark.silentcipher import SPEECH_POWER

PUBLISHED: dict[str, Any] = {
    "SR": 44100,
    "N_FFT": 4096,
    "HOP_LENGTH": 2048,
    "message_band_size": 1024,
    "message_dim": 5,
    "message_len": 21,
    "message_sdr": 47,
    "n_messages": 1,
    "enc_n_layers": 3,
    "dec_c_n_layers": 4,
    "ensure_negative_message": True,
    "utterance_level_normalization": True,
    "frame_level_normalization": False,
    "no_normalization": False,
}
"""The part of the published `hparams.yaml` that concerns the networks."""


class GatedLayer(nn.Module):
    """Batch-normalised conv(x) * sigmoid(gate(x)); x [batch, channels, bins, columns]."""

    def __init__(self, width_in: int, width_out: int, kernel: int = 3, looks_ahead: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, kernel)
        self.gate = nn.Conv2d(width_in, width_out, kernel)
        self.bn = nn.BatchNorm2d(width_out)
        self._padding = (0, 0, 0, 0) if kernel == 1 else (1, 1, 1, 1) if looks_ahead else (2, 0, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.cat([self.conv.weight, self.gate.weight])
        bias = torch.cat([self.conv.bias, self.gate.bias])  # type: ignore[list-item]
        x = F.pad(x, self._padding).contiguous(memory_format=torch.channels_last)
        # bfloat16 trains twice as fast on the CPU, but the first layer needs to see the mark, 36 dB below the speech.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training and x.shape[1] > 1):
            both = F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias)
        value, gate = both.float().chunk(2, dim=1)
        return self.bn(value * gate.sigmoid())


def _looking_ahead(hparams: Mapping[str, Any]) -> int:
    """Number of 3 x 3 layers that see the next column: all, unless `hparams` has a `lookahead`."""
    return hparams.get("lookahead", hparams["enc_n_layers"] + hparams["dec_c_n_layers"])


class Encoder(nn.Module):
    """`enc_c.ckpt`: encodes the carrier and spreads the message's symbols over the band."""

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        super().__init__()
        width, layers = hparams["enc_conv_dim"], hparams["enc_n_layers"]
        widths = [1] + [width] * layers
        self.main = nn.Sequential(
            *(GatedLayer(widths[n], widths[n + 1], looks_ahead=n < _looking_ahead(hparams)) for n in range(layers))
        )
        self.linear = nn.Linear(hparams["message_dim"], hparams["message_band_size"])

    def forward(self, carrier: torch.Tensor) -> torch.Tensor:
        return self.main(carrier)

    def transform_message(self, symbols: torch.Tensor) -> torch.Tensor:
        """One-hot symbols [batch, 1, message_dim, columns] → [batch, 1, band, columns]."""
        return self.linear(symbols.transpose(2, 3)).transpose(2, 3)


class CarrierDecoder(nn.Module):
    """`dec_c.ckpt`: computes the mark's magnitudes."""

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        super().__init__()
        width, layers = hparams["dec_c_conv_dim"], hparams["dec_c_n_layers"]
        widths = [3 * hparams["enc_conv_dim"]] + [width] * (layers - 1)
        first = hparams["enc_n_layers"]
        self.main = nn.Sequential(
            *(
                GatedLayer(widths[n], widths[n + 1], looks_ahead=first + n < _looking_ahead(hparams))
                for n in range(layers - 1)
            ),
            GatedLayer(width, 1, kernel=1),
        )

    def forward(self, merged: torch.Tensor) -> torch.Tensor:
        return self.main(merged).abs()


class MessageDecoder(nn.Module):
    """`dec_m_0.ckpt`: reads a symbol from each column. As published, a Dropout of 0 precedes each layer."""

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        super().__init__()
        width, layers = hparams["dec_m_conv_dim"], hparams["dec_m_n_layers"]
        self.message_band_size = hparams["message_band_size"]
        widths = [1] + [width] * (layers - 1) + [hparams["message_dim"]]
        self.main = nn.Sequential()
        for n in range(layers):
            self.main += nn.Sequential(nn.Dropout(0), GatedLayer(widths[n], widths[n + 1]))
        self.linear = nn.Linear(self.message_band_size, 1)

    def forward(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """[batch, 1, bins, columns] → logits [batch, 1, message_dim, columns]."""
        h = self.main(magnitudes[:, :, : self.message_band_size])
        return self.linear(h.transpose(2, 3)).squeeze(3).unsqueeze(1)


class Networks(nn.Module):
    """The three networks, and the steps from audio to mark and from audio to symbols."""

    def __init__(self, hparams: dict[str, Any]) -> None:
        super().__init__()
        self.hparams = hparams
        self.window: torch.Tensor
        self.enc_c, self.dec_c, self.dec_m_0 = Encoder(hparams), CarrierDecoder(hparams), MessageDecoder(hparams)
        self.register_buffer("window", torch.hann_window(hparams["N_FFT"]), persistent=False)

    def stft(self, audio: torch.Tensor) -> torch.Tensor:
        """[clips, samples] → [clips, bins, columns]."""
        n_fft, hop = self.hparams["N_FFT"], self.hparams["HOP_LENGTH"]
        return torch.stft(audio, n_fft, hop, window=self.window, pad_mode="constant", return_complex=True)

    def mark(self, audio: torch.Tensor, symbols: torch.Tensor, mask: torch.Tensor, sdr: float) -> torch.Tensor:
        """Return the mark [clips, samples] of audio at the network's loudness.

        audio [clips, samples]; symbols int64 [clips, columns]; mask bool [clips, columns], True for marked columns;
        sdr: level of the mark below the speech, in dB.
        """
        n_fft, band = self.hparams["N_FFT"], self.hparams["message_band_size"]
        spectra = self.stft(audio)[:, : band + 7]
        carrier = spectra.abs().unsqueeze(1)
        message = self.enc_c.transform_message(F.one_hot(symbols, 5).float().transpose(1, 2).unsqueeze(1))
        message = F.pad(message, (0, 0, 0, 7))
        width = self.hparams["enc_conv_dim"]
        merged = [self.enc_c(carrier), carrier.expand(-1, width, -1, -1), message.expand(-1, width, -1, -1)]
        info = self.dec_c(torch.cat(merged, dim=1))[:, 0, :band]
        power = info.square().sum(1, keepdim=True) / (n_fft // 2 + 1)
        rms = (self.window.square().sum() * SPEECH_POWER).sqrt() * 10 ** (-sdr / 20)
        info = info * (power + 1e-12).rsqrt() * rms * mask.unsqueeze(1)
        spectra = spectra[:, :band]
        mark = -torch.minimum(info, spectra.abs()) * torch.sgn(spectra)
        mark = F.pad(mark, (0, 0, 0, n_fft // 2 + 1 - band))
        return torch.istft(mark, n_fft, self.hparams["HOP_LENGTH"], window=self.window, length=audio.shape[1])

    def read(self, audio: torch.Tensor) -> torch.Tensor:
        """Read audio [clips, samples] at the network's loudness → logits [clips, message_dim, columns]."""
        spectra = self.stft(audio)
        magnitudes = (spectra.real.square() + spectra.imag.square() + 1e-10).sqrt()
        return self.dec_m_0(magnitudes.unsqueeze(1))[:, 0]

    def save(self, folder: Path) -> None:
        """Write the published files."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hparams.yaml").write_text(yaml.safe_dump(self.hparams, sort_keys=False), encoding="utf-8")
        for name in ("enc_c", "dec_c", "dec_m_0"):
            draft = folder / f"{name}.draft"
            torch.save(getattr(self, name).state_dict(), draft)
            draft.rename(folder / f"{name}.ckpt")


def load_networks(folder: Path) -> Networks:
    """Return the networks that `Networks.save` wrote, in evaluation mode."""
    networks = Networks(yaml.safe_load((folder / "hparams.yaml").read_text(encoding="utf-8")))
    for name in ("enc_c", "dec_c", "dec_m_0"):
        getattr(networks, name).load_state_dict(torch.load(folder / f"{name}.ckpt", weights_only=True))
    return networks.eval()
