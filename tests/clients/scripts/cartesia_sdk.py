"""What Cartesia's Python SDK does before a server: run by tests/clients/test_vendors.py. Prints JSON."""

import json
import os
import sys
from pathlib import Path

import cartesia

out, text, interrupted = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
url, key = os.environ["MISOTTS_URL"], os.environ["MISOTTS_API_KEY"]
where = {"base_url": url, "websocket_base_url": url.replace("http", "ws", 1)}
client, found = cartesia.Cartesia(api_key=key, **where), {}
raw = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}
asked = {"model_id": "sonic-3", "voice": {"id": "alloy"}, "output_format": raw, "language": "en"}

(out / "http.pcm").write_bytes(client.tts.generate(transcript=text, **asked).read())
try:
    client.tts.generate(transcript=text, **{**asked, "voice": {"id": "unknown"}})
except cartesia.APIStatusError as error:
    found["voice"] = [type(error).__name__, error.status_code]
try:
    cartesia.Cartesia(api_key="wrong", **where).tts.generate(transcript=text, **asked)
except cartesia.APIStatusError as error:
    found["key"] = [type(error).__name__, error.status_code]


def heard(context):
    audio, words = b"", []
    for event in context.receive():
        if event.type == "chunk":
            audio += event.audio
        elif event.type == "timestamps":
            words += event.word_timestamps.words
    return audio, words


def send(context, words):
    for word in words.split():
        context.send(transcript=f"{word} ", continue_=True, add_timestamps=True, **asked)
    context.no_more_inputs()


for name in ("socket", "again"):  # the second connection is the client's own answer to a lost one
    with client.tts.websocket_connect() as connection:
        context = connection.context()
        send(context, text)
        audio, found["words"] = heard(context)
        (out / f"{name}.pcm").write_bytes(audio)
        left = connection.context()
        send(left, interrupted)
        next(event for event in left.receive() if event.type == "chunk")
        left.cancel()
        heard(left)  # until its `done`: the SDK gives what still comes of a cancelled context to the next one
        after = connection.context()
        send(after, text)
        (out / f"{name} after.pcm").write_bytes(heard(after)[0])
print(json.dumps(found))
