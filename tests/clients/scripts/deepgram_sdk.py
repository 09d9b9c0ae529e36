"""What Deepgram's Python SDK does before a server: run by tests/clients/test_vendors.py. Prints JSON."""

import json
import os
import sys
from pathlib import Path

from deepgram import DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from deepgram.speak.v1.types import SpeakV1Text

out, text, interrupted = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
url, key = os.environ["MISOTTS_URL"], os.environ["MISOTTS_API_KEY"]
ws = url.replace("http", "ws", 1)
environment = DeepgramClientEnvironment(base=url, production=ws, agent=ws, agent_rest=url)
client, found = DeepgramClient(api_key=key, environment=environment), {}
asked = {"model": "alloy", "encoding": "linear16", "sample_rate": 24_000}

generate = client.speak.v1.audio.generate
(out / "http.pcm").write_bytes(b"".join(generate(text=text, container="none", **asked)))
for name, made in {
    "voice": lambda: list(generate(text=text, **{**asked, "model": "unknown"})),
    "key": lambda: list(
        DeepgramClient(api_key="wrong", environment=environment).speak.v1.audio.generate(text=text, **asked)
    ),
}.items():
    try:
        made()
    except ApiError as error:
        found[name] = error.status_code


def speak(connection, words):
    for word in words.split():
        connection.send_text(SpeakV1Text(type="Speak", text=f"{word} "))
    connection.send_flush()


def heard(connection, end):
    audio = b""
    for message in connection:
        if isinstance(message, bytes):
            audio += message
        elif message.type == end:
            return audio


for name in ("socket", "again"):
    with client.speak.v1.connect(**asked) as connection:
        speak(connection, text)
        (out / f"{name}.pcm").write_bytes(heard(connection, "Flushed"))
        speak(connection, interrupted)
        next(message for message in connection if isinstance(message, bytes))
        connection.send_clear()
        heard(connection, "Cleared")
        speak(connection, text)
        (out / f"{name} after.pcm").write_bytes(heard(connection, "Flushed"))
        connection.send_close()
print(json.dumps(found))
