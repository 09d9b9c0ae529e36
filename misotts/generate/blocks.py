"""The pool of KV blocks: fixed runs of cache positions, reference counts, and prefixes that are computed once.

A block is free, held by one or more utterances, or idle: no utterance holds it, but it still contains keys and values
with which a later prompt may begin. A full block of a prompt is identified by its content and everything before it (a
hash chain over rows), so two prompts that begin with the same voice share its blocks. Only full blocks are shared, and
an utterance writes only behind them: no block is ever written by two utterances.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

SCRATCH = 0
"""Block 0 is where engines write padding rows; it is never allocated."""


def block_keys(rows: npt.NDArray[np.int32], block_size: int, after: bytes = b"") -> list[bytes]:
    """Return a key for each full block of rows [positions, columns]; it covers all positions up to the block's end.
    `after`: key of the block before the rows; empty at the beginning of a prompt."""
    keys = []
    for end in range(block_size, len(rows) + 1, block_size):
        chain = hashlib.blake2b(after, digest_size=16)
        chain.update(np.ascontiguousarray(rows[end - block_size : end]).data)
        keys.append(after := chain.digest())
    return keys


class BlockPool:
    """Allocates and frees blocks of `block_size` positions."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.capacity = num_blocks - 1
        self.shared = 0
        """Blocks that prompts found already computed, since start."""
        self._free = list(range(num_blocks - 1, SCRATCH, -1))
        self._ref_counts = [0] * num_blocks
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Number of blocks that contain nothing."""
        return len(self._free)

    @property
    def num_idle(self) -> int:
        """Number of blocks that contain a prefix which no utterance uses."""
        return len(self._idle)

    @property
    def keys(self) -> Collection[bytes]:
        """Keys of the blocks that contain a prefix, used or idle."""
        return self._block_of.keys()

    @property
    def available(self) -> int:
        """Number of blocks that `allocate` can return."""
        return len(self._free) + len(self._idle)

    def blocks_for(self, positions: int) -> int:
        """Number of blocks that hold `positions` positions."""
        return -(-positions // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Return `count` blocks to write; the caller has checked that as many are `available`. An idle prefix is
        evicted only when no block is free, the least recently used first."""
        _require(count <= self.available, "more blocks are allocated than are available")
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
        return blocks

    def share(self, keys: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest cached prefix of `keys`; they may only be read."""
        blocks = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            self._idle.pop(block, None)
            self._ref_counts[block] += 1
            blocks.append(block)
        return blocks

    def cache_prefix(self, block: int, key: bytes) -> None:
        """Record that a held block contains the keys and values that `key` identifies."""
        _require(self._ref_counts[block] > 0, "a block is cached as a prefix that no utterance holds")
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def free(self, blocks: list[int]) -> None:
        """Free an utterance's blocks, given in its order. Later blocks become evictable before earlier ones, because a
        prefix is useless without its beginning."""
        for block in reversed(blocks):
            _require(self._ref_counts[block] > 0, "a block is freed that no utterance holds")
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if block in self._key_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def forget(self, keys: Iterable[bytes]) -> None:
        """Empty the idle blocks that `keys` identify: nothing will begin with them again."""
        for key in keys:
            block = self._block_of.get(key)
            if block is not None and block in self._idle:
                del self._idle[block], self._block_of[self._key_of.pop(block)]
                self._free.append(block)

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._block_of[self._key_of.pop(block)]
        return block

    def check(self, tables: Iterable[list[int]]) -> None:
        """Check the pool against the block tables of all utterances.

        Raises:
            RuntimeError: a block is lost, in two states, or has a wrong reference count.
        """
        held = Counter(block for table in tables for block in table)
        for block, count in enumerate(self._ref_counts[1:], start=1):
            _require(count == held[block], f"block {block} is held {held[block]} times, its reference count is {count}")
        states = [*self._free, *self._idle, *(block for block in held if held[block])]
        _require(sorted(states) == list(range(1, self.capacity + 1)), "a block is lost or in two states")
        _require(all(self._block_of[key] == block for block, key in self._key_of.items()), "a key has another block")
        _require(len(self._block_of) == len(self._key_of), "a key has no block")
        _require(set(self._idle) <= set(self._key_of), "an idle block has no key")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(f"KV blocks: {what}")
