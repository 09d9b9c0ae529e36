"""Serve MisoTTS and its family (Sesame CSM): prompt, generate, decode, watermark."""

import os

# moshi compiles its RoPE at first use, for every shape anew, which stalls a running server and gains nothing. It reads
# this when it is imported, and any of our modules may be the first to do so.
os.environ.setdefault("NO_TORCH_COMPILE", "1")

__version__ = "0.1.0"
