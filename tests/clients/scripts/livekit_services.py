"""What LiveKit's speech plugins do before a server: run by tests/clients/test_livekit.py. Prints JSON."""

import asyncio
import json
import os
import sys
from pathlib import Path

import aiohttp
from livekit.agents import APIConnectOptions, APIError
from livekit.plugins import cartesia, deepgram, elevenlabs, openai

HTTP, KEY = os.environ["MISOTTS_URL"], os.environ["MISOTTS_API_KEY"]
ONCE = APIConnectOptions(max_retry=0)
PLUGINS = {
    "openai": lambda http: openai.TTS(base_url=f"{HTTP}/v1", api_key=KEY, voice="alloy", response_format="pcm"),
    "openai mp3": lambda http: openai.TTS(base_url=f"{HTTP}/v1", api_key=KEY, voice="alloy"),
    "openai raw": lambda http: openai.TTS(
        base_url=f"{HTTP}/v1", api_key=KEY, voice="alloy", model="tts-1", response_format="wav"
    ),
    "cartesia": lambda http: cartesia.TTS(base_url=HTTP, api_key=KEY, voice="alloy", http_session=http),
    "elevenlabs": lambda http: elevenlabs.TTS(
        base_url=f"{HTTP}/v1", api_key=KEY, voice_id="alloy", encoding="pcm_24000", http_session=http
    ),
    "elevenlabs mp3": lambda http: elevenlabs.TTS(
        base_url=f"{HTTP}/v1", api_key=KEY, voice_id="alloy", http_session=http
    ),
    "deepgram": lambda http: deepgram.TTS(base_url=f"{HTTP}/v1/speak", api_key=KEY, model="alloy", http_session=http),
    "unknown voice": lambda http: cartesia.TTS(base_url=HTTP, api_key=KEY, voice="unknown", http_session=http),
    "wrong key": lambda http: cartesia.TTS(base_url=HTTP, api_key="wrong", voice="alloy", http_session=http),
}


async def audio(stream):
    pieces, timed = [], []
    async with stream:
        async for each in stream:
            pieces.append(bytes(each.frame.data))
            timed += [(str(word), word.start_time) for word in each.frame.userdata.get("lk.timed_transcripts", [])]
    return b"".join(pieces), timed


async def spoken(plugin, text, interrupt=False):
    stream = plugin.stream(conn_options=ONCE)
    for word in text.split():
        stream.push_text(word + " ")
    if not interrupt:
        stream.end_input()
        return await audio(stream)
    stream.flush()
    await anext(aiter(stream))
    await stream.aclose()
    return None


async def use(make, out, name, text, interrupted):
    found = {}
    async with aiohttp.ClientSession() as http:
        plugin = make(http)
        try:
            whole, _ = await audio(plugin.synthesize(text, conn_options=ONCE))
            (out / f"{name}.pcm").write_bytes(whole)
            found["rate"] = plugin.sample_rate
            if plugin.capabilities.streaming:
                streamed, found["timed"] = await spoken(plugin, text)
                (out / f"{name} streamed.pcm").write_bytes(streamed)
                await spoken(plugin, interrupted, interrupt=True)
                again, _ = await spoken(plugin, text)
                (out / f"{name} again.pcm").write_bytes(again)
        except APIError as error:
            found["error"] = [type(error).__name__, getattr(error, "status_code", None), str(error)]
        await plugin.aclose()
    return found


async def refused_once(text, interrupted):
    """A key with one stream: the plugin's own retry is served once the first answer has ended."""
    plugin = openai.TTS(base_url=f"{HTTP}/v1", api_key="one-key", voice="alloy", response_format="pcm")
    holding = plugin.synthesize(f"{interrupted} " * 20, conn_options=ONCE)
    await anext(aiter(holding))
    failed = []
    plugin.on("error", lambda event: failed.append([event.error.status_code, event.recoverable]))
    asyncio.get_running_loop().call_later(0.3, lambda: asyncio.ensure_future(holding.aclose()))
    heard, _ = await audio(plugin.synthesize(text, conn_options=APIConnectOptions(max_retry=3, retry_interval=1.0)))
    await plugin.aclose()
    return {"failed": failed, "bytes": len(heard)}


async def main():
    out, text, interrupted, *names = Path(sys.argv[1]), *sys.argv[2:]
    found = {name: await use(PLUGINS[name], out, name, text, interrupted) for name in names or PLUGINS}
    print(json.dumps({**found, "retry": await refused_once(text, interrupted)}))


asyncio.run(main())
