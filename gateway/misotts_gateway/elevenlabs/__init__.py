"""ElevenLabs' protocols: `stream-input`, `multi-stream-input`, text-to-speech over HTTP, `/v1/voices`."""
