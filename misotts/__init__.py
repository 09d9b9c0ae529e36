"""Serve MisoTTS and its family (Sesame CSM): prompt, generate, decode, watermark."""

__version__ = "0.1.0"
