"""watermark: chunks of audio → the caller's chunks with the watermark, all streams in one batch.

As the last stage it also acknowledges every chunk to `generate`. See `misotts.watermark.watermarker`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from misotts.config import FRAME_SAMPLES
from misotts.serve.stage.acknowledge import AcknowledgementSender
from misotts.serve.stage.chunk_stage import Answer, ChunkStage
from misotts.serve.stage.tensors import end, send
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker
from misotts_client.errors import error_of


@dataclass(frozen=True)
class Delivery:
    """The outcome for one chunk."""

    sent: bool
    """True if the caller gets a response."""
    frame: int
    """Number of the response's first frame in its stream."""
    failed: bool
    """True if the acknowledgement must end the stream in `generate`, which sends chunks until then."""


class Deliveries:
    """Decides which chunks become responses: those with audio or with the stream's end, and none after that end."""

    def __init__(self, slots: int) -> None:
        self._streams = [(0, False)] * slots
        """The number of the next frame of each slot's stream, and whether the stream has ended."""

    def add(self, piece: Piece[Any] | None, samples: int, finish: str) -> Delivery:
        """Take a chunk with `samples` samples of audio. `piece` is None if its stream has no slot."""
        frame, ended = (0, False) if piece is None or piece.first else self._streams[piece.slot]
        if piece:
            self._streams[piece.slot] = (frame + samples // FRAME_SAMPLES, ended or bool(finish))
        return Delivery(bool(samples or finish) and not ended, frame, ended or error_of(finish) is not None)


class WatermarkStage(ChunkStage):
    name = "watermark"
    input = "AUDIO"

    def load(self) -> None:
        self.link.loading("SilentCipher")
        settings = self.settings
        watermarker = Watermarker(settings.model, settings.max_streams, settings.watermark_key, self.device)
        self.acknowledgements = AcknowledgementSender(settings.acknowledge_socket)
        self.deliveries = Deliveries(settings.max_streams)
        self.start_worker(watermarker.mark_each)

    def send_answer(self, answer: Answer) -> None:
        """Send the response, if there is one, and acknowledge the chunk in any case."""
        header, sender = answer.chunk.header, answer.chunk.sender
        delivery = self.deliveries.add(answer.piece, len(answer.audio), answer.finish)
        try:
            if delivery.sent:
                numbers = {
                    "FRAME": np.array([delivery.frame], np.int32),
                    "SEED_USED": np.array([header.seed], np.int64),
                    "SESSION_TURNS": np.array([header.session_turns], np.int32),
                }
                send(sender, {"AUDIO": answer.audio, **numbers, "FINISH": answer.finish}, final=True)
            else:
                end(sender)
        finally:
            self.acknowledgements.send(header.stream, header.index, delivery.failed)

    def idle(self) -> None:
        self.acknowledgements.flush()
