"""decode: chunks of frames → chunks of audio, all streams in one batch. See `misotts.decode.decoder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from misotts.decode.decoder import Codes, Decoder
from misotts.mimi import load_mimi
from misotts.serve.stage.chunk_stage import ChunkStage, Piece
from misotts.serve.stage.tensors import send


class DecodeStage(ChunkStage):
    name = "decode"
    input = "CODES"

    def load(self) -> None:
        self.link.loading("Mimi decoder")
        mimi = load_mimi(self.settings.model_folder, self.config, self.device)
        self.decoder = Decoder(mimi, self.settings.max_streams)
        self.start_worker()

    def process(self, pieces: Sequence[Piece], first: Sequence[bool]) -> Iterator[tuple[int, np.ndarray]]:
        return self.decoder.decode_each([Codes(p.slot, new, p.data) for p, new in zip(pieces, first, strict=True)])

    def answer(self, piece: Piece, data: np.ndarray, finish: str) -> None:
        outputs = {
            "SECRET": self.settings.secret,
            "HEADER": piece.header,
            "AUDIO": data.astype(np.float32, copy=False).ravel(),
            "FINISH": finish,
        }
        send(piece.sender, outputs, final=True)
