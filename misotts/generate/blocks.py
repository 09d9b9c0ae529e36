"""The pool of KV blocks: who holds which fixed-size run of cache positions."""

from __future__ import annotations

SCRATCH = 0
"""Block 0 is where engines write what nobody will read (padding rows); it is never handed out."""


class BlockPool:
    """Free and held blocks of `block_size` positions. One owner per block; the owner gives it back."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.capacity = num_blocks - 1
        self._free = list(range(num_blocks - 1, SCRATCH, -1))
        self._held: set[int] = set()

    @property
    def free(self) -> int:
        return len(self._free)

    def blocks_for(self, positions: int) -> int:
        """How many blocks hold `positions` positions."""
        return -(-positions // self.block_size)

    def take(self, count: int) -> list[int]:
        """Hand out `count` blocks; the caller has checked that they are `free`."""
        assert count <= len(self._free), "took more blocks than are free"
        blocks = [self._free.pop() for _ in range(count)]
        self._held.update(blocks)
        return blocks

    def give_back(self, blocks: list[int]) -> None:
        assert self._held.issuperset(blocks), "gave back a block that was not held"
        self._held.difference_update(blocks)
        self._free.extend(blocks)

    def check(self) -> None:
        """Every block but scratch is either free or held, never both, never lost."""
        assert len(set(self._free)) == len(self._free), "a block is free twice"
        assert not self._held.intersection(self._free), "a block is both free and held"
        assert self._held.union(self._free) == set(range(1, self.capacity + 1)), "a block is lost"
