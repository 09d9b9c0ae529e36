"""Deepgram's protocol: `/v1/speak` as a WebSocket and over HTTP."""
