"""The pool of KV blocks: fixed runs of cache positions, counted references, and prefixes that are computed once.

A block is free, held by one or more utterances, or idle: held by nobody, but still full of keys and values that a later
prompt may begin with. Full blocks of a prompt are named by their content and everything before it (a hash chain over
frames), so two prompts that begin with the same voice share its blocks. Only full blocks are shared, and an utterance
writes only behind them: no block is ever written by two.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable

import numpy as np

SCRATCH = 0
"""Block 0 is where engines write what nobody will read (padding rows); it is never handed out."""


def block_keys(prompt: np.ndarray, block_size: int) -> list[bytes]:
    """Names of a prompt's full blocks, int32 [positions, columns] → one key a block, each over all positions up to the
    block's end."""
    chain = hashlib.blake2b(digest_size=16)
    keys = []
    for end in range(block_size, len(prompt) + 1, block_size):
        chain.update(np.ascontiguousarray(prompt[end - block_size : end]).data)
        keys.append(chain.digest())
    return keys


class BlockPool:
    """Hands out blocks of `block_size` positions and takes them back."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.capacity = num_blocks - 1
        self.shared = 0
        """Blocks that a prompt found computed, since start."""
        self._free = list(range(num_blocks - 1, SCRATCH, -1))
        self._holders = [0] * num_blocks
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that hold nothing."""
        return len(self._free)

    @property
    def idle(self) -> int:
        """Blocks that hold a prefix nobody uses now."""
        return len(self._idle)

    @property
    def available(self) -> int:
        """Blocks that `take` can hand out."""
        return len(self._free) + len(self._idle)

    def blocks_for(self, positions: int) -> int:
        """How many blocks hold `positions` positions."""
        return -(-positions // self.block_size)

    def take(self, count: int) -> list[int]:
        """Hand out `count` blocks to be written; the caller has seen that so many are `available`. Idle prefixes are
        forgotten only when no block is free, the least recently used first."""
        _require(count <= self.available, "more blocks are taken than are available")
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            self._holders[block] = 1
        return blocks

    def share(self, keys: Iterable[bytes]) -> list[int]:
        """Hand out the blocks of the longest known prefix of `keys`, to be read only."""
        blocks = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            self._idle.pop(block, None)
            self._holders[block] += 1
            blocks.append(block)
        return blocks

    def publish(self, block: int, key: bytes) -> None:
        """Say that a held block now holds the keys and values that `key` names."""
        _require(self._holders[block] > 0, "a block that nobody holds is published")
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def give_back(self, blocks: list[int]) -> None:
        """Take back an utterance's blocks, in its order. Its later blocks are forgotten before its earlier ones, since
        a prefix is of no use without its beginning."""
        for block in reversed(blocks):
            _require(self._holders[block] > 0, "a block is given back that was not held")
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._key_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        del self._block_of[self._key_of.pop(block)]
        return block

    def check(self, tables: Iterable[list[int]]) -> None:
        """Hold the pool against the block tables of all utterances.

        Raises:
            RuntimeError: a block is lost, in two states, or counted wrongly.
        """
        held = Counter(block for table in tables for block in table)
        for block in range(1, self.capacity + 1):
            _require(self._holders[block] == held[block], f"block {block} is held {held[block]} times, counted wrongly")
        states = [*self._free, *self._idle, *(block for block in held if held[block])]
        _require(sorted(states) == list(range(1, self.capacity + 1)), "a block is lost or in two states")
        _require(all(self._block_of[key] == block for block, key in self._key_of.items()), "a key names another block")
        _require(len(self._block_of) == len(self._key_of), "a key is left behind")
        _require(set(self._idle) <= set(self._key_of), "an idle block has no key")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(f"KV blocks: {what}")
