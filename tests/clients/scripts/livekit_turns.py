"""Three turns with examples/livekit_agent.py: run by tests/clients/test_agents.py. Prints JSON."""

import asyncio
import importlib.util
import json
import sys
import time
from pathlib import Path

from livekit import rtc
from livekit.agents import Agent
from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities


class Speaker(AudioOutput):
    """A loudspeaker that plays at the pace of playback."""

    def __init__(self) -> None:
        super().__init__(label="speaker", capabilities=AudioOutputCapabilities(pause=False), sample_rate=24_000)
        self.heard, self.played_until, self.end = b"", 0.0, None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self.heard += bytes(frame.data)
        self.played_until = max(self.played_until, time.monotonic()) + frame.duration

    def flush(self) -> None:
        super().flush()
        self.end = asyncio.get_running_loop().call_later(
            max(self.played_until - time.monotonic(), 0), self._finish, False
        )

    def clear_buffer(self) -> None:
        if self.end:
            self.end.cancel()
        self._finish(True)

    def _finish(self, interrupted: bool) -> None:
        self.end, self.played_until = None, 0.0
        self.on_playback_finished(playback_position=len(self.heard) / 48_000, interrupted=interrupted)


async def main() -> None:
    specification = importlib.util.spec_from_file_location("livekit_agent", sys.argv[2])
    agent = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(agent)
    out, first, long = Path(sys.argv[1]), sys.argv[3], sys.argv[4]
    async with agent.conversation() as http:
        session, speaker = agent.make_session(http), Speaker()
        session.output.audio = speaker
        await session.start(Agent(instructions="Be brief."))
        found = {}
        await session.generate_reply(user_input=first)
        (out / "first.pcm").write_bytes(speaker.heard)
        speaker.heard = b""
        reply = session.generate_reply(user_input=long)
        while not speaker.heard:
            await asyncio.sleep(0.01)
        await session.interrupt()
        await reply
        found["interrupted"], found["interrupted bytes"] = reply.interrupted, len(speaker.heard)
        speaker.heard = b""
        await session.generate_reply(user_input=first)
        (out / "next.pcm").write_bytes(speaker.heard)
        found["history"] = [[item.role, item.text_content] for item in session.history.items if item.type == "message"]
        await session.aclose()
    print(json.dumps(found))


asyncio.run(main())
