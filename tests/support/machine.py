"""A machine that seems to have a GPU and TensorRT-LLM, until they are used."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from build import backbone
from misotts.engines.table import Variant
from misotts.engines.tensorrt_llm import backbone as tensorrt_llm_backbone

BUILT = {
    "plugin_config": {
        "gpt_attention_plugin": "bfloat16",
        "paged_kv_cache": True,
        "use_paged_context_fmha": True,
        "context_fmha": True,
        "remove_input_padding": True,
        "tokens_per_block": 32,
    }
}


def built_with(sizes: Mapping[str, int]) -> dict[str, object]:
    """The settings that the builder writes, if it builds what it was asked for."""
    names = {"max_batch_size": "sequences", "max_num_tokens": "positions", "max_seq_len": "max_seq_len"}
    return {**BUILT, **{name: sizes[size] for name, size in names.items()}}


class Machine:
    """Its GPU and release, and the ranks that were built. The builder writes an engine's files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpu: str | None = "9.0"
        self.release = "1.2.1"
        self.built: list[int] = []
        self.config: dict[str, object] = {}
        """The settings that the builder changes in its `config.json`."""
        for place in (backbone, tensorrt_llm_backbone):
            monkeypatch.setattr(place, "gpu_here", lambda: self.gpu)
            monkeypatch.setattr(place, "tensorrt_llm_release", lambda: {"tensorrt_llm": self.release})
        monkeypatch.setattr(backbone, "_build_rank", self.build)

    def build(self, source: Path, draft: Path, rank: int, sizes: Mapping[str, int], variant: Variant) -> None:
        assert (source / f"rank{rank}.safetensors").is_file()
        (draft / f"rank{rank}.engine").write_bytes(b"engine")
        (draft / "config.json").write_text(json.dumps({"build_config": {**built_with(sizes), **self.config}}))
        self.built.append(rank)
