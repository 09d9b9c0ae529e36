"""Sizes in readable units, and in the errors of a KV pool that is too small."""

from pathlib import Path

import pytest

from misotts.config import ConfigError, ModelConfig
from misotts.engines.kv_memory import at_least, at_most, pool_blocks


def test_sizes_are_rounded_to_the_safe_side() -> None:
    assert (at_most(1000), at_least(0), at_most(1024)) == ("1000 bytes", "0 bytes", "1.00 KiB")
    assert (at_most(4_259_840), at_least(4_259_840)) == ("4.06 MiB", "4.07 MiB")
    assert at_most(20 * 2**30) == "20.00 GiB"
    assert at_least(5 * 2**40) == "5120.00 GiB"


def test_a_kv_pool_that_is_too_small_is_refused_with_the_sizes(demo_folder: Path) -> None:
    config = ModelConfig.load(demo_folder)
    with pytest.raises(ConfigError, match=r"^--kv-memory is 1000 bytes; at least 4\.07 MiB are needed"):
        pool_blocks(config, 16, 4, 1000, None)
    with pytest.raises(ConfigError, match=r"at least 4\.07 MiB .*; 2\.00 MiB of the GPU's memory are free"):
        pool_blocks(config, 16, 4, None, 2 * 2**20)
