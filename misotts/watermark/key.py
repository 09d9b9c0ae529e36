"""The watermark's key: five bytes that a deployment chooses and keeps secret.

The key lets anyone forge the mark or recognise it. It is never logged, and no error shows it.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Sequence
from math import lgamma, log
from pathlib import Path

KEY_ENV = "MISOTTS_WATERMARK_KEY"
KEY_BYTES = 5

REFERENCE_KEY = bytes(KEY_BYTES)
"""MisoTTS's published key, which proves nothing."""


SYMBOLS_PER_KEY = 4 * KEY_BYTES
"""Number of symbols of a key: two bits each, high bits first. A start symbol follows them."""

LEAST_ORDERS = 10_000_000
"""A key is weak if its symbols have fewer orders than this: then sounds without a mark resemble it too easily. One of a
thousand random keys is weak, and so is every key within two symbols of the published one."""


class WatermarkKeyError(ValueError):
    """The key is missing or must not be used."""


def symbols_of(key: bytes) -> list[int]:
    """Return the symbols that the columns of a stream repeat: the key's, 1 to 4, then the start symbol, 0."""
    bits = "".join(f"{byte:08b}" for byte in key)
    return [int(bits[i : i + 2], 2) + 1 for i in range(0, len(bits), 2)] + [0]


def log_orders(symbols: Sequence[int]) -> float:
    """Return the logarithm of the number of different orders of a key's symbols."""
    return lgamma(len(symbols) + 1) - sum(lgamma(count + 1) for count in Counter(symbols).values())


def is_weak(key: bytes) -> bool:
    """True if a key's symbols have fewer than `LEAST_ORDERS` orders."""
    return log_orders(symbols_of(key)[:-1]) < log(LEAST_ORDERS)


def write_random_key(file: Path) -> None:
    """Write a random key that is not weak to a new file that its owner alone may read.

    Raises:
        FileExistsError: there is a file. Other OSErrors: it cannot be written.
    """
    key = secrets.token_bytes(KEY_BYTES)
    while is_weak(key):
        key = secrets.token_bytes(KEY_BYTES)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
        opened.write(f"{key.hex()}\n")


def read_key(file: Path | None, allow_weak: bool = False) -> bytes:
    """Read a key of ten hexadecimal digits from `file`, or from the variable `MISOTTS_WATERMARK_KEY`.

    Raises:
        WatermarkKeyError: there is no key, it is not ten hexadecimal digits, or it is weak.
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
    if is_weak(key) and not allow_weak:
        problem = (
            "MisoTTS's published one, which proves nothing" if key == REFERENCE_KEY else "weak: its symbols are alike"
        )
        raise WatermarkKeyError(
            f"the watermark key in {source} is {problem}; `misotts watermark key FILE` makes a random one, "
            "--allow-weak-key permits this one"
        )
    return key
