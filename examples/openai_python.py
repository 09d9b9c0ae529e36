"""Speech from a misotts server with OpenAI's Python client, while it is generated. OPENAI_BASE_URL names the server:
http://localhost:8080/v1."""

import sys

from openai import OpenAI

client = OpenAI()  # it reads OPENAI_BASE_URL, and OPENAI_API_KEY, which has to be set to anything
with client.audio.speech.with_streaming_response.create(
    model="tts-1", voice="alloy", input="Good morning. How are you today?", response_format="pcm"
) as response:
    for piece in response.iter_bytes():
        sys.stdout.buffer.write(piece)  # 16-bit little-endian samples, 24 kHz mono
