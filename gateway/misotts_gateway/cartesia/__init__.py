"""Cartesia's protocols: `/tts/websocket`, `/tts/bytes`, `/tts/sse`, `/voices`."""
