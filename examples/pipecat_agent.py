"""A voice agent of Pipecat that speaks with MisoTTS, on a WebSocket at port 8765.

The user's words come as transcripts: put a recogniser before `Parrot`, and a language model in its place.
"""

import asyncio
import os

from pipecat.frames.frames import LLMFullResponseEndFrame, LLMFullResponseStartFrame, LLMTextFrame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.transports.websocket.server import SingleClientWebsocketServerParams, SingleClientWebsocketServerTransport
from pipecat.workers.runner import WorkerRunner


class Parrot(FrameProcessor):
    """Stands in for a language model: it repeats what the user says, word by word, and stops when the user speaks."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if not isinstance(frame, TranscriptionFrame):
            await self.push_frame(frame, direction)
            return
        await self.broadcast_interruption()
        await self.push_frame(LLMFullResponseStartFrame())
        for word in f"You said: {frame.text}".split():
            await self.push_frame(LLMTextFrame(f"{word} "))
        await self.push_frame(LLMFullResponseEndFrame())


async def main():
    transport = SingleClientWebsocketServerTransport(
        SingleClientWebsocketServerParams(
            audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()
        ),
        port=int(os.environ.get("PORT", "8765")),
    )
    tts = CartesiaTTSService(  # Cartesia's protocol; the socket is one conversation of the server
        url=os.environ.get("MISOTTS_WS", "ws://localhost:8080") + "/tts/websocket",
        api_key=os.environ.get("MISOTTS_API_KEY", "any"),
        settings=CartesiaTTSService.Settings(voice="alloy"),
    )
    pipeline = Pipeline([transport.input(), Parrot(), tts, transport.output()])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_out_sample_rate=24_000))
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    asyncio.run(main())
