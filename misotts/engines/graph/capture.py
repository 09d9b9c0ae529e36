"""Capture of a graph: the code that needs a GPU. It has run only on the tests' emulated GPU
(tests/support/emulated_gpu.py).

The rules of a capture, and how the captured code (`GraphEngine.compute` and all that it calls) follows them:

- Nothing waits for the device: no `.item()`, `.tolist()`, `bool(tensor)`, `nonzero` or boolean masks. Every shape is
  known from the bucket. A test runs that code on tensors without values (tests/engines/graph/test_engine.py).
- Nothing is compiled: Triton compiles and loads a kernel at its first launch, and cuBLAS allocates its workspace at its
  first product. So everything runs twice before the capture.
- Memory comes from the graphs' own pool, which all buckets share, because they are never replayed at the same time.
  Inputs and outputs are allocated outside of it and do not move.
- There are no pageable copies: inputs are copied before the replay.
- The capture mode is `thread_local`: other threads of the process (the outbox, Triton's) continue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 2


@torch.inference_mode()
def capture(frame: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """Capture the work of `frame` on static buffers, with memory of `pool` (`torch.cuda.graph_pool_handle`)."""
    for _ in range(WARM_UP):
        frame()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        frame()
    return graph
