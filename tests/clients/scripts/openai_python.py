"""What OpenAI's Python client does before a server: run by tests/clients/test_openai.py. Prints JSON."""

import json
import sys
import threading
import time
from pathlib import Path

import openai

out, text = Path(sys.argv[1]), sys.argv[2]
client = openai.OpenAI()
found = {}


def fails(asked_by, **fields):
    try:
        asked_by.audio.speech.create(**{"model": "tts-1", "voice": "alloy", "input": text, **fields})
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.param, error.request_id is not None]
    return None


# The whole answer, with our own fields.
own = {"seed": 7, "temperature": 0.5, "top_k": 20}
for name in ("pcm", "wav", "mp3", "opus", "flac"):
    answer = client.audio.speech.create(
        model="tts-1", voice="alloy", input=text, response_format=name, extra_body=own, instructions="Calm."
    )
    (out / f"whole.{name}").write_bytes(answer.content)
    found[f"{name} ignored"] = answer.response.headers.get("x-misotts-ignored")

# While it is generated: raw, and as events.
asked = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "pcm", "extra_body": own}
with client.audio.speech.with_streaming_response.create(**asked) as answer:
    pieces = [(time.monotonic(), piece) for piece in answer.iter_bytes()]
found["arrivals"] = len({round(at, 2) for at, _ in pieces})
(out / "streamed.pcm").write_bytes(b"".join(piece for _, piece in pieces))
with client.audio.speech.with_streaming_response.create(**asked, stream_format="sse") as answer:
    found["events"] = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]

# An interruption: the block is left after the first bytes.
with client.audio.speech.with_streaming_response.create(**{**asked, "input": f"{text} " * 40}) as answer:
    next(answer.iter_bytes(1_000))

# Errors have OpenAI's classes.
found["errors"] = {
    "voice": fails(client, voice="unknown"),
    "speed": fails(client, speed=2.0),
    "input": fails(client, input=""),
    "key": fails(client.with_options(api_key="wrong", max_retries=0)),
}

# A key with one stream: a second one is refused, and the client's own retry is served once the first has ended.
one = client.with_options(api_key="one-key")
with one.audio.speech.with_streaming_response.create(**{**asked, "input": f"{text} " * 40}) as first:
    reading = first.iter_bytes(1_000)  # without its iterator the client closes the answer
    next(reading)
    found["refused"] = fails(one.with_options(max_retries=0))
    threading.Timer(0.3, first.close).start()
    second = one.audio.speech.with_raw_response.create(**asked)
    found["retries"] = second.retries_taken
    (out / "retried.pcm").write_bytes(second.content)

found["models"] = [model.id for model in client.models.list()]
print(json.dumps(found))
