"""The lines that need a GPU: capture. They have never been run on one, only on a pretended one
(tests/support/pretend_cuda.py).

What a capture forbids, and how the captured code (`GraphEngine.compute` and all it calls) keeps to it:

- Nothing waits for the device: no `.item()`, `.tolist()`, `bool(tensor)`, `nonzero`, boolean masks; every shape is
  known from the bucket. A test runs that code on tensors that have no values to read
  (tests/engines/graph/test_engine.py).
- Nothing is compiled: Triton compiles a kernel, and loads it, when it is first launched; cuBLAS takes its workspace
  at its first product. So everything is run twice before it is captured.
- Memory comes from the graph's own pool, which all buckets share: they are never replayed at the same time. Inputs and
  outputs are made outside of it and stay where they are.
- No pageable copies: inputs are brought into place before the replay, not inside.
- Capture mode `thread_local`: other threads of the process (the outbox, Triton's) go on working.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 2


@torch.inference_mode()
def capture(frame: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """Capture what `frame` does on static buffers, into memory of `pool` (`torch.cuda.graph_pool_handle`)."""
    for _ in range(WARM_UP):
        frame()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        frame()
    return graph
