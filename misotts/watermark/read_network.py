"""SilentCipher's reading network, which estimates the symbol of each STFT column of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from misotts.watermark.silentcipher import SPEECH_POWER, GatedLayer, SilentCipherConfig, read_message_decoder

BANDS = (0, 1 / 8, 1 / 4, 1 / 2, 1)
"""Edges of the bands in which sound may repeat, as shares of the message's band."""

PIECE_COLUMNS = 512
"""Number of columns over which the network runs at a time, which bounds its memory."""


@dataclass(frozen=True)
class Columns:
    """The STFT columns of a clip, as the network reads them, that have their whole window in the clip.

    A column across an end of the clip is half of zeros. The network often reads a start symbol there, and the levels of
    such columns differ so much from those of others that they would hide the repetition of a steady sound.
    """

    symbols: npt.NDArray[np.float32]
    """Log probabilities [columns, message_dim]."""
    repetition: float
    """Correlation, 0 to 1, of the columns' log magnitudes with those a message or several later, in that of the `BANDS`
    where it is greatest: at most 0.33 for speech, marked or not, up to 1 for sound that itself repeats after that
    time."""


class ReadNetwork:
    """Computes the symbols' probabilities in each column of a clip at `config.SR`."""

    def __init__(self, folder: Path) -> None:
        self.config = config = SilentCipherConfig.load(folder)
        state = read_message_decoder(folder, config)
        self._layers = [GatedLayer.load(state, f"main.{2 * n + 1}", "cpu") for n in range(config.dec_m_n_layers)]
        self._over_bins, self._bias = state["linear.weight"][0], state["linear.bias"]
        self._window = torch.hann_window(config.N_FFT)

    @torch.inference_mode()
    def read(self, audio: npt.NDArray[np.float32]) -> Columns:
        """Read float32 [samples] of any loudness. The window of column n begins at sample n * HOP_LENGTH."""
        config = self.config
        loudness = np.sqrt(np.mean(np.square(audio, dtype=np.float64)))
        samples = torch.from_numpy(audio * np.float32(SPEECH_POWER**0.5 / max(loudness, 1e-12)))
        spectra = torch.stft(
            samples, config.N_FFT, config.HOP_LENGTH, window=self._window, pad_mode="constant", return_complex=True
        )
        magnitudes = spectra[: config.message_band_size].abs().T[None, None]  # [1, 1, columns, band]
        columns, reach = magnitudes.shape[2], len(self._layers)
        logits = []
        for start in range(0, columns, PIECE_COLUMNS):
            begin, end = max(start - reach, 0), min(start + PIECE_COLUMNS + reach, columns)
            piece = self._run_layers(magnitudes[:, :, begin:end])
            logits.append(piece[start - begin : start - begin + PIECE_COLUMNS])
        inside = slice(1, -1)  # a window is two hops long
        repetition = _repetition(magnitudes[0, 0, inside], config.message_len)
        return Columns(torch.cat(logits)[inside].log_softmax(dim=1).numpy(), repetition)

    def _run_layers(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self._layers:
            x = layer(x, time_padding=1)
        return (x @ self._over_bins + self._bias)[0].T  # [columns, message_dim]


def _repetition(magnitudes: torch.Tensor, message: int) -> float:
    """Correlate the logarithms of magnitudes [columns, bins] with themselves one, two, ... messages later; return the
    greatest correlation in a band."""
    power = magnitudes.square()
    levels = (power + 1e-6 * power.mean() + 1e-12).log()
    levels -= levels.mean(dim=0)
    edges = [round(share * levels.shape[1]) for share in BANDS]
    greatest = 0.0
    for lag in range(message, len(levels) - message // 2, message):
        for low, high in pairwise(edges):
            band = levels[:, low:high]
            product = float((band[:-lag] * band[lag:]).sum())
            greatest = max(greatest, product / max(float(band.square().sum()), 1e-12))
    return greatest
