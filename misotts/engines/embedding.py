"""Input embeddings: prompt positions and sampled frames → the backbone's input."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from misotts.config import MASKED, ModelConfig
from misotts.engines.transfer import to_device
from misotts.model.weight_files import Weights


class Embedding:
    """The text and audio embedding tables.

    A position's embedding is the sum of its columns' embeddings. A column with `MASKED` adds nothing.
    """

    def __init__(
        self, weights: Weights, config: ModelConfig, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.text_table = weights["text_embeddings.weight"].to(device=device, dtype=dtype)
        self.audio_table = weights["audio_embeddings.weight"].to(device=device, dtype=dtype)
        self._offsets = torch.arange(config.audio_num_codebooks, device=device) * config.audio_vocab_size

    @property
    def width(self) -> int:
        return self.text_table.shape[1]

    @torch.inference_mode()
    def prompt(self, frames: torch.Tensor) -> torch.Tensor:
        """Embed prompt positions [positions, codebooks + 1] int64 → [positions, width].

        A position is either text (the last column alone) or audio (all others); unused columns are `MASKED`.
        """
        # Text and audio rows are separated on the host: on a GPU this would wait for all earlier work.
        is_text = frames[:, -1] != MASKED
        text, audio = is_text.nonzero().squeeze(1), (~is_text).nonzero().squeeze(1)
        words, codes = frames[text, -1], frames[audio, :-1]
        text, audio, words, codes = (to_device(t, self.text_table.device) for t in (text, audio, words, codes))
        out = self.text_table.new_empty(len(frames), self.width)
        out[text] = self.text_table[words]
        out[audio] = self.audio(codes)
        return out

    @torch.inference_mode()
    def audio(self, codes: torch.Tensor) -> torch.Tensor:
        """Sum the embeddings of frames [n, codebooks] int64 → [n, width]."""
        return F.embedding_bag(codes + self._offsets, self.audio_table, mode="sum")
