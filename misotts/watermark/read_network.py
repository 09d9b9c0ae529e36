"""SilentCipher's reading network, which estimates the symbol of each STFT column of a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from misotts.watermark.silentcipher import SPEECH_POWER, GatedLayer, SilentCipherConfig, read_message_decoder

PIECE_COLUMNS = 512
"""Number of columns over which the network runs at a time, which bounds its memory."""


class ReadNetwork:
    """Computes the symbols' probabilities in each column of a clip at `config.SR`."""

    def __init__(self, folder: Path) -> None:
        self.config = config = SilentCipherConfig.load(folder)
        state = read_message_decoder(folder, config)
        self._layers = [GatedLayer.load(state, f"main.{2 * n + 1}", "cpu") for n in range(config.dec_m_n_layers)]
        self._over_bins, self._bias = state["linear.weight"][0], state["linear.bias"]
        self._window = torch.hann_window(config.N_FFT)

    @torch.inference_mode()
    def read(self, audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Read float32 [samples] of any loudness → log probabilities, float32 [columns, message_dim].

        Column n is centred on sample n * HOP_LENGTH.
        """
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
        return torch.cat(logits).log_softmax(dim=1).numpy()

    def _run_layers(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self._layers:
            x = layer(F.pad(x, (0, 0, 1, 1)).contiguous(memory_format=torch.channels_last))  # three times as fast
        return (x @ self._over_bins + self._bias)[0].T  # [columns, message_dim]
