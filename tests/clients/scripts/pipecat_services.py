"""What Pipecat's speech services do before a server: run by tests/clients/test_pipecat.py. Prints JSON."""

import asyncio
import json
import os
import sys
from pathlib import Path

from dropping import Dropping
from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.cartesia.tts import CartesiaHttpTTSService, CartesiaTTSService
from pipecat.services.deepgram.tts import DeepgramTTSService
from pipecat.services.elevenlabs.tts import ElevenLabsTTSService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner

logger.remove()
HTTP, KEY = os.environ["MISOTTS_URL"], os.environ["MISOTTS_API_KEY"]
SERVICES = {
    "openai": lambda http, ws: OpenAITTSService(
        api_key=KEY, base_url=f"{http}/v1", settings=OpenAITTSService.Settings(voice="alloy")
    ),
    "cartesia": lambda http, ws: CartesiaTTSService(
        api_key=KEY, url=f"{ws}/tts/websocket", settings=CartesiaTTSService.Settings(voice="alloy")
    ),
    "cartesia http": lambda http, ws: CartesiaHttpTTSService(
        api_key=KEY, base_url=http, settings=CartesiaHttpTTSService.Settings(voice="alloy")
    ),
    "elevenlabs": lambda http, ws: ElevenLabsTTSService(
        api_key=KEY, url=ws, settings=ElevenLabsTTSService.Settings(voice="alloy")
    ),
    "deepgram": lambda http, ws: DeepgramTTSService(
        api_key=KEY, base_url=ws, settings=DeepgramTTSService.Settings(voice="alloy")
    ),
    "unknown voice": lambda http, ws: CartesiaTTSService(
        api_key=KEY, url=f"{ws}/tts/websocket", settings=CartesiaTTSService.Settings(voice="unknown")
    ),
    "wrong key": lambda http, ws: CartesiaTTSService(
        api_key="wrong", url=f"{ws}/tts/websocket", settings=CartesiaTTSService.Settings(voice="alloy")
    ),
}


class Ear(FrameProcessor):
    """Hears what a service speaks."""

    def __init__(self):
        super().__init__()
        self.audio, self.words, self.errors, self.changed = b"", [], [], asyncio.Condition()
        self.stopped = 0

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        async with self.changed:
            if isinstance(frame, TTSAudioRawFrame):
                self.audio += frame.audio
            elif isinstance(frame, TTSTextFrame):
                self.words.append(frame.text)
            elif isinstance(frame, TTSStoppedFrame):
                self.stopped += 1
            self.changed.notify_all()
        await self.push_frame(frame, direction)

    async def until(self, holds):
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(holds), 60)


async def use(make, out, name, text, interrupted):
    """Speak a turn, then one that is interrupted, then the first text again."""
    ear, found, way = Ear(), {}, Dropping(HTTP)
    http = await way.start()
    service = make(http, http.replace("http", "ws", 1))
    worker = PipelineWorker(
        Pipeline([service, ear]), cancel_on_idle_timeout=False, params=PipelineParams(audio_out_sample_rate=24_000)
    )

    @worker.event_handler("on_pipeline_error")
    async def failed(_, frame: ErrorFrame):
        ear.errors.append(frame.error)
        async with ear.changed:
            ear.changed.notify_all()

    async def say(words):
        await worker.queue_frame(LLMFullResponseStartFrame())
        for word in words.split():
            await worker.queue_frame(LLMTextFrame(word + " "))
        await worker.queue_frame(LLMFullResponseEndFrame())

    async def turns():
        await say(text)
        await ear.until(lambda: ear.stopped or ear.errors)
        (out / f"{name}.pcm").write_bytes(ear.audio)
        found["words"], found["errors"] = " ".join(ear.words).split(), list(ear.errors)
        if not ear.errors:
            ear.audio, ear.stopped = b"", 0
            await say(interrupted)
            await ear.until(lambda: ear.audio)
            await worker.queue_frame(InterruptionFrame())
            await asyncio.sleep(0.5)
            found["interrupted"], ear.audio, ear.stopped = len(ear.audio), b"", 0
            await say(text)
            await ear.until(lambda: ear.audio and ear.stopped)
            (out / f"{name} again.pcm").write_bytes(ear.audio)
            if way.drop():  # the service opens another connection
                await asyncio.sleep(1.0)
                ear.audio, ear.stopped = b"", 0
                await say(text)
                await ear.until(lambda: ear.audio and ear.stopped)
                (out / f"{name} reconnected.pcm").write_bytes(ear.audio)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), turns())
    return found


async def main():
    out, text, interrupted, *names = Path(sys.argv[1]), *sys.argv[2:]
    print(json.dumps({name: await use(SERVICES[name], out, name, text, interrupted) for name in names or SERVICES}))


asyncio.run(main())
