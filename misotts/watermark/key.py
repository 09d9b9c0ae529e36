"""The watermark's key: five bytes that a deployment chooses and keeps secret.

The key lets anyone forge the mark or recognise it. It is never logged, and no error shows it.
"""

from __future__ import annotations

import os
from pathlib import Path

KEY_ENV = "MISOTTS_WATERMARK_KEY"
KEY_BYTES = 5

REFERENCE_KEY = bytes(KEY_BYTES)
"""MisoTTS's published key, which proves nothing."""


class WatermarkKeyError(ValueError):
    """The key is missing or must not be used."""


def read_key(file: Path | None) -> bytes:
    """Read a key of ten hexadecimal digits from `file`, or from the variable `MISOTTS_WATERMARK_KEY`.

    Raises:
        WatermarkKeyError: there is no key, it is not ten hexadecimal digits, or it is the published one.
    """
    if file:
        source = str(file)
        try:
            text = file.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise WatermarkKeyError(f"no watermark key at {source}: {error.strerror}") from None
    else:
        source, text = KEY_ENV, os.environ.get(KEY_ENV, "")
        if not text:
            raise WatermarkKeyError(
                f"no watermark key: name a file with --watermark-key-file or set {KEY_ENV} (ten hexadecimal digits); "
                "--allow-reference-key marks with MisoTTS's published key, which proves nothing"
            )
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise WatermarkKeyError(f"the watermark key in {source} must be {2 * KEY_BYTES} hexadecimal digits")
    if key == REFERENCE_KEY:
        raise WatermarkKeyError(f"the watermark key in {source} is MisoTTS's published one, which proves nothing")
    return key
