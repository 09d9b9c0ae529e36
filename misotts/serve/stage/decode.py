"""decode: chunks of frames → chunks of audio, all streams in one batch. See `misotts.decode.decoder`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from misotts.decode.decoder import Decoder
from misotts.mimi import load_mimi
from misotts.serve.stage.chunk_stage import Audio, Chunk, ChunkStage
from misotts.serve.stage.tensors import send
from misotts.slots import Piece


class DecodeStage(ChunkStage):
    name = "decode"
    input = "CODES"

    def load(self) -> None:
        self.link.loading("Mimi decoder")
        mimi = load_mimi(self.settings.model, self.config, self.device)
        decoder = Decoder(mimi, self.settings.max_streams)
        decoder.prepare()
        self.start_worker(decoder.decode_each)

    def answer(self, chunk: Chunk, piece: Piece[Any] | None, audio: Audio, finish: str) -> None:
        header = replace(chunk.header, finish=finish)
        send(chunk.sender, {"HEADER": header.pack(), "AUDIO": audio}, final=True)
