"""A voice agent of LiveKit that speaks with MisoTTS: `python livekit_agent.py dev` joins a room of LIVEKIT_URL.

Put a recogniser (`stt=`) into the session, and a language model in the place of `Parrot`, to make it a whole one.
"""

import os
import re
import uuid

import aiohttp
from livekit.agents import Agent, AgentSession, JobContext, WorkerOptions, cli, llm
from livekit.plugins import cartesia


class Parrot(llm.LLM):
    """Stands in for a language model: it repeats what the user said, word by word."""

    def chat(self, *, chat_ctx, tools=None, conn_options=None, **_):
        return Repetition(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class Repetition(llm.LLMStream):
    async def _run(self):
        said = self._chat_ctx.items[-1].text_content
        for word in re.findall(r"\S+\s*", f"You said: {said}"):
            self._event_ch.send_nowait(llm.ChatChunk(id="1", delta=llm.ChoiceDelta(role="assistant", content=word)))


def make_session(http: aiohttp.ClientSession) -> AgentSession:
    tts = cartesia.TTS(  # Cartesia's protocol
        base_url=os.environ.get("MISOTTS_URL", "http://localhost:8080"),
        api_key=os.environ.get("MISOTTS_API_KEY", "any"),
        voice="alloy",
        http_session=http,
    )
    return AgentSession(llm=Parrot(), tts=tts)


def conversation() -> aiohttp.ClientSession:
    """LiveKit opens a new socket after each interruption; the header makes all of them one conversation."""
    return aiohttp.ClientSession(headers={"x-misotts-session": uuid.uuid4().hex})


async def entrypoint(context: JobContext):
    http = conversation()
    context.add_shutdown_callback(http.close)
    await make_session(http).start(Agent(instructions="Be brief."), room=context.room)


if __name__ == "__main__":
    cli.run_app(WorkerOptions(entrypoint_fnc=entrypoint))
