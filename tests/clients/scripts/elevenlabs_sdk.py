"""What ElevenLabs' Python SDK does before a server: run by tests/clients/test_vendors.py. Prints JSON.

Its WebSocket speaks TLS only: MISOTTS_TLS is the address of a listener with it, and SSL_CERT_FILE its certificate.
"""

import base64
import json
import os
import sys
from pathlib import Path

from elevenlabs import ElevenLabs
from elevenlabs.core.api_error import ApiError

out, text = Path(sys.argv[1]), sys.argv[2]
url, key = os.environ["MISOTTS_URL"], os.environ["MISOTTS_API_KEY"]
client, found = ElevenLabs(base_url=url, api_key=key), {}
asked = {"voice_id": "alloy", "model_id": "eleven_turbo_v2_5", "output_format": "pcm_24000"}

(out / "whole.pcm").write_bytes(b"".join(client.text_to_speech.convert(text=text, **asked)))
pieces = list(client.text_to_speech.stream(text=text, **asked))
(out / "streamed.pcm").write_bytes(b"".join(pieces))
found["pieces"] = len(pieces)
timed = list(client.text_to_speech.stream_with_timestamps(text=text, **asked))
(out / "timed.pcm").write_bytes(b"".join(base64.b64decode(each.audio_base_64) for each in timed))
found["characters"] = "".join(c for each in timed if each.alignment for c in each.alignment.characters)
found["voices"] = [voice.voice_id for voice in client.voices.get_all().voices]
for name, made in {
    "voice": lambda: list(client.text_to_speech.convert(text=text, **{**asked, "voice_id": "unknown"})),
    "key": lambda: list(ElevenLabs(base_url=url, api_key="wrong").text_to_speech.convert(text=text, **asked)),
}.items():
    try:
        made()
    except ApiError as error:
        found[name] = error.status_code
realtime = ElevenLabs(base_url=os.environ["MISOTTS_TLS"], api_key=key).text_to_speech
words = (f"{word} " for word in text.split())
(out / "realtime.pcm").write_bytes(b"".join(realtime.convert_realtime(text=words, **asked)))
print(json.dumps(found))
