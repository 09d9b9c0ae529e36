"""watermark: chunks of audio → the caller's chunks, marked, all streams in one batch.

The last stage also acknowledges every chunk to generate: that it has arrived, and whether the caller is still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from misotts.config import FRAME_SAMPLES
from misotts.serve.stage.acknowledge import AcknowledgementSender
from misotts.serve.stage.chunk_stage import ChunkStage, Piece
from misotts.serve.stage.tensors import end, send
from misotts.watermark.watermarker import Audio, Watermarker
from misotts_client.errors import error_of


class WatermarkStage(ChunkStage):
    name = "watermark"
    input = "AUDIO"

    def load(self) -> None:
        self.link.loading("SilentCipher")
        settings = self.settings
        key = bytes.fromhex(settings.watermark_key)
        self.watermarker = Watermarker(settings.model_folder, settings.max_streams, key, self.device)
        self.acknowledgements = AcknowledgementSender(settings.acknowledge_socket)
        self.frames = [0] * settings.max_streams
        self.ended = [False] * settings.max_streams
        self.start_worker()

    def process(self, pieces: Sequence[Piece], first: Sequence[bool]) -> Iterator[tuple[int, np.ndarray]]:
        for piece, new in zip(pieces, first, strict=True):
            if new:
                self.frames[piece.slot], self.ended[piece.slot] = 0, False
        return self.watermarker.mark_each(
            [Audio(p.slot, new, p.data, last=bool(p.finish)) for p, new in zip(pieces, first, strict=True)]
        )

    def answer(self, piece: Piece, data: np.ndarray, finish: str) -> None:
        """Send what there is to hear, once, up to the stream's end; acknowledge the chunk in any case."""
        gone = piece.sender.is_cancelled()
        seated = self.has_slot(piece)
        ended = seated and self.ended[piece.slot]
        frame = self.frames[piece.slot] if seated else 0
        if seated:
            self.frames[piece.slot] += len(data) // FRAME_SAMPLES
            self.ended[piece.slot] |= bool(finish)
        try:
            if (len(data) or finish) and not ended:
                outputs = {"AUDIO": data, "FRAME": np.array([frame], np.int32), "SEED_USED": piece.seed}
                send(piece.sender, {**outputs, "FINISH": finish}, final=True)
            else:
                end(piece.sender)
        finally:
            # A stream that this stage or decode ended with an error must end in generate too, which sends until then.
            failed = ended or error_of(finish) is not None
            self.acknowledgements.send(piece.stream, piece.index, gone, failed)

    def idle(self) -> None:
        self.acknowledgements.flush()
