"""A telephone agent: Twilio's media streams come to port 8765, Pipecat runs the call, and MisoTTS speaks at 8 kHz.

A key that the caller presses stands in for a recogniser: put one before `Parrot`, and a language model in its place.
"""

import asyncio
import json
import os

from pipecat.frames.frames import InputDTMFFrame, LLMFullResponseEndFrame, LLMFullResponseStartFrame, LLMTextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.transports.websocket.server import SingleClientWebsocketServerParams, SingleClientWebsocketServerTransport
from pipecat.workers.runner import WorkerRunner


class Twilio(TwilioFrameSerializer):
    """Learns the name of the call from Twilio's first messages."""

    async def deserialize(self, data):
        message = json.loads(data)
        if message["event"] == "start":
            self._stream_sid = message["start"]["streamSid"]
        return await super().deserialize(data)


class Parrot(FrameProcessor):
    """Stands in for a language model: it says which key was pressed, and stops when another one is."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if not isinstance(frame, InputDTMFFrame):
            await self.push_frame(frame, direction)
            return
        await self.broadcast_interruption()
        await self.push_frame(LLMFullResponseStartFrame())
        for word in f"You pressed the key {frame.button.value}.".split():
            await self.push_frame(LLMTextFrame(f"{word} "))
        await self.push_frame(LLMFullResponseEndFrame())


async def main():
    twilio = Twilio("", params=Twilio.InputParams(auto_hang_up=False))
    transport = SingleClientWebsocketServerTransport(
        SingleClientWebsocketServerParams(audio_in_enabled=True, audio_out_enabled=True, serializer=twilio),
        port=int(os.environ.get("PORT", "8765")),
    )
    tts = CartesiaTTSService(  # Cartesia's protocol; the socket is one conversation of the server
        url=os.environ.get("MISOTTS_WS", "ws://localhost:8080") + "/tts/websocket",
        api_key=os.environ.get("MISOTTS_API_KEY", "any"),
        settings=CartesiaTTSService.Settings(voice="alloy"),
    )
    pipeline = Pipeline([transport.input(), Parrot(), tts, transport.output()])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=8_000, audio_out_sample_rate=8_000))
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    asyncio.run(main())
