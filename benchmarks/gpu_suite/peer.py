"""Sections `peer` and `peer, compiled`: Transformers' `CsmForConditionalGeneration` at the same shape."""

from __future__ import annotations

import time
from statistics import median

import torch
from transformers import CsmForConditionalGeneration

from benchmarks.costs.section import Section
from benchmarks.costs.timing import memory, synchronize
from benchmarks.csm_peer import peer_config
from benchmarks.peers import make_prompts, theirs


def peer(section: Section, compiled: bool) -> None:
    """Sends the table `peer`: milliseconds of a frame, without prefill."""
    sizes, config = section.sizes, section.sizes.config
    before = torch.get_default_dtype()
    torch.set_default_dtype(section.dtype)
    try:
        with torch.device(section.device):  # initialised where it stays
            model = CsmForConditionalGeneration(peer_config(config)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    run = theirs(model, compiled, sizes.compiler)
    for batch in sizes.peer_batches:
        prompts = make_prompts(config, batch, seed=0)
        run(prompts, sizes.peer_frames, 0.9)  # kernels are chosen, networks compiled
        run(prompts, 1, 0.9)
        took: dict[int, list[float]] = {1: [], sizes.peer_frames: []}
        for _ in range(sizes.peer_rounds):
            for frames, times in took.items():
                section.hurry()
                synchronize(section.device)
                began = time.perf_counter()
                codes = run(prompts, frames, 0.9)
                times.append((time.perf_counter() - began) * 1000)
                assert codes.shape[:2] == (batch, frames), "not every frame was sampled"
        first, all_of_them = median(took[1]), median(took[sizes.peer_frames])
        per_frame = (all_of_them - first) / (sizes.peer_frames - 1)
        section.row(
            "peer", batch=batch, ms=round(per_frame, 3), first_frame_ms=round(first, 3), rounds=sizes.peer_rounds
        )
    section.value("memory", memory(section.device))
