"""decode: chunks of frames → chunks of audio, all streams in one batch. See `misotts.decode.decoder`."""

from __future__ import annotations

from dataclasses import replace

from misotts.decode.decoder import Decoder
from misotts.mimi import load_mimi
from misotts.serve.stage.chunk_stage import Answer, ChunkStage
from misotts.serve.stage.tensors import send


class DecodeStage(ChunkStage):
    name = "decode"
    input = "CODES"

    def load(self) -> None:
        self.link.loading("Mimi decoder")
        mimi = load_mimi(self.settings.model, self.config, self.device)
        decoder = Decoder(mimi, self.settings.max_streams)
        decoder.prepare()
        self.start_worker(decoder.decode_each)

    def send_answer(self, answer: Answer) -> None:
        header = replace(answer.chunk.header, finish=answer.finish)
        send(answer.chunk.sender, {"HEADER": header.pack(), "AUDIO": answer.audio}, final=True)
