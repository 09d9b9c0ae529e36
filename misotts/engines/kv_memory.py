"""The size of the KV pool: its number of blocks, the check of `--kv-memory`, and sizes in readable units."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch

from misotts.config import ConfigError, ModelConfig

log = logging.getLogger(__name__)

BLOCK_SIZE = 32
"""Positions of a KV block."""


def at_most(size: int) -> str:
    """`size` bytes, rounded down: `1000 bytes`, `4.06 MiB`."""
    return _readable(size, math.floor)


def at_least(size: int) -> str:
    """`size` bytes, rounded up, so that this much memory is enough."""
    return _readable(size, math.ceil)


def _readable(size: int, rounded: Callable[[float], int]) -> str:
    power = min(max(size.bit_length() - 1, 0) // 10, 3)
    return f"{rounded(size * 100 / 1024**power) / 100:.{2 if power else 0}f} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def check_kv_memory(kv_memory: int | None, need: int) -> None:
    """Compare `--kv-memory` with what one utterance of full length needs, both in bytes.

    Raises:
        ConfigError: it is too small.
    """
    if kv_memory is not None and kv_memory < need:
        utterance = "for the keys and values of one utterance of full length"
        raise ConfigError(f"--kv-memory is {at_most(kv_memory)}; at least {at_least(need)} are needed {utterance}")


def free_memory(beside: int = 0) -> int:
    """Bytes of GPU memory that the KV pool may take beside `beside` bytes of weights that are still to be loaded; a
    tenth of the memory is left for activations."""
    return int((torch.cuda.mem_get_info()[0] - beside) * 0.9)


def pool_blocks(config: ModelConfig, max_streams: int, itemsize: int, kv_memory: int | None, free: int | None) -> int:
    """Number of blocks of the KV pool, the scratch block included: as many as `max_streams` utterances of full length
    need, if `kv_memory` and `free` bytes allow them. `itemsize`: bytes of an element of a key or value.

    Raises:
        ConfigError: the memory does not hold one utterance of full length; names the numbers.
    """
    c = config.backbone
    block_bytes = c.num_layers * 2 * c.num_kv_heads * BLOCK_SIZE * c.head_dim * itemsize
    per_utterance = -(-config.max_seq_len // BLOCK_SIZE)
    allowed = [size // block_bytes for size in (kv_memory, free) if size is not None]
    blocks = min([1 + max_streams * per_utterance, *allowed])
    if blocks < 1 + per_utterance:
        need = (1 + per_utterance) * block_bytes
        check_kv_memory(kv_memory, need)
        raise ConfigError(
            f"the KV pool needs at least {at_least(need)} for one utterance of full length; {at_most(free or 0)} of "
            "the GPU's memory are free for it"
        )
    log.info("KV pool: %d blocks of %d positions, %.0f MiB", blocks, BLOCK_SIZE, blocks * block_bytes / 2**20)
    return blocks
