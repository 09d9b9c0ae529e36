"""Three turns with a Pipecat agent of examples/, on its WebSocket: run by tests/clients/test_agents.py. Prints JSON.

The user speaks by transcripts to pipecat_agent.py, and by keys to twilio_agent.py, for which this stands in for Twilio.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import websockets
from pipecat.frames.protobufs import frames_pb2

PORT = os.environ["PORT"]
QUIET_S = 1.5


class Transcripts:
    """Pipecat's own messages."""

    opening = ()

    @staticmethod
    def say(text):
        frame = frames_pb2.Frame()
        frame.transcription.text, frame.transcription.user_id = text, "user"
        return frame.SerializeToString()

    @staticmethod
    def audio(message):
        return frames_pb2.Frame.FromString(message).audio.audio


class Twilio:
    """Twilio's messages."""

    opening = (
        json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}),
        json.dumps({"event": "start", "streamSid": "MZ1", "start": {"streamSid": "MZ1", "callSid": "CA1"}}),
    )

    @staticmethod
    def say(text):
        return json.dumps({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"track": "inbound_track", "digit": text}})

    @staticmethod
    def audio(message):
        content = json.loads(message)
        assert content["streamSid"] == "MZ1"
        return base64.b64decode(content["media"]["payload"]) if content["event"] == "media" else b""


async def connected():
    for _ in range(600):
        try:
            return await websockets.connect(f"ws://127.0.0.1:{PORT}")
        except OSError:
            await asyncio.sleep(0.1)
    raise TimeoutError("the agent does not listen")


async def turn(socket, wire, text, out=None, leave_after=None):
    """Say something and listen until nothing has come for a while; return the bytes and the seconds to the first."""
    heard, began, first = b"", time.monotonic(), None
    await socket.send(wire.say(text))
    while not (leave_after and len(heard) >= leave_after):
        try:
            heard += wire.audio(await asyncio.wait_for(socket.recv(), QUIET_S if heard else 60))
        except TimeoutError:
            break
        first = first or (time.monotonic() - began if heard else None)
    if out:
        out.write_bytes(heard)
    return [len(heard), first]


async def main():
    out, agent, wire, first, long = Path(sys.argv[1]), sys.argv[2], globals()[sys.argv[3]], *sys.argv[4:]
    process = subprocess.Popen([sys.executable, agent], stdout=subprocess.DEVNULL, stderr=(out / "agent.log").open("w"))
    try:
        async with await connected() as socket:
            for message in wire.opening:
                await socket.send(message)
            found = {
                "first": await turn(socket, wire, first, out / "first"),
                "long": await turn(socket, wire, long, leave_after=4_000),
                "next": await turn(socket, wire, first, out / "next"),
            }
    finally:
        process.kill()
    print(json.dumps(found))


asyncio.run(main())
