"""The pool of KV blocks."""

import numpy as np

from misotts.generate.blocks import BlockPool, block_keys


def test_idle_prefixes_are_evicted_oldest_first_and_tail_first() -> None:
    pool = BlockPool(num_blocks=7, block_size=1)
    keys = {name: block_keys(np.array(name, np.int32)[:, None], 1) for name in ((1, 2), (3, 4), (5, 6))}
    for chain in keys.values():
        blocks = pool.allocate(2)
        for block, key in zip(blocks, chain, strict=True):
            pool.cache_prefix(block, key)
        pool.free(blocks)
    assert (pool.num_free, pool.num_idle) == (0, 6)
    allocated = pool.allocate(3)
    known = {name: len(pool.share(chain)) for name, chain in keys.items()}
    assert known == {(1, 2): 0, (3, 4): 1, (5, 6): 2}
    assert len(set(allocated)) == 3


def test_a_key_covers_everything_before_its_blocks_end() -> None:
    first = block_keys(np.array([[1], [2], [3], [4]], np.int32), 2)
    other = block_keys(np.array([[9], [2], [3], [4], [5]], np.int32), 2)
    assert len(first) == len(other) == 2
    assert not set(first).intersection(other)
    assert block_keys(np.array([[1], [2], [3]], np.int32), 2) == first[:1]
