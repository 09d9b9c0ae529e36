"""Sizes in words, and the KV pool that is too small, in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from misotts.config import ConfigError, ModelConfig
from misotts.engines.kv_memory import at_least, at_most, pool_blocks


def test_sizes_are_rounded_to_the_safe_side() -> None:
    assert (at_most(1000), at_least(0), at_most(1024)) == ("1000 bytes", "0 bytes", "1.00 KiB")
    assert (at_most(4_259_840), at_least(4_259_840)) == ("4.06 MiB", "4.07 MiB")
    assert at_most(20 * 2**30) == "20.00 GiB"
    assert at_least(5 * 2**40) == "5120.00 GiB"


def test_too_little_memory_for_the_pool_is_said_with_where_it_is_missing() -> None:
    config = ModelConfig.load(Path("models/demo"))
    with pytest.raises(ConfigError, match=r"^--kv-memory is 1000 bytes; at least 4\.07 MiB are needed"):
        pool_blocks(config, 16, 4, 1000, None)
    with pytest.raises(ConfigError, match=r"at least 4\.07 MiB .*; 2\.00 MiB of the GPU's memory are free"):
        pool_blocks(config, 16, 4, None, 2 * 2**20)
