"""Work on a device for which the host does not wait: copies to it, and a stream of a thread's own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy.typing as npt
import torch

Device = torch.device | str


def to_device(values: torch.Tensor | npt.NDArray[Any], device: Device) -> torch.Tensor:
    """Copy a host tensor or array to `device`.

    For a GPU the copy goes through pinned memory, so the host does not wait for the device's work, as it would with an
    ordinary `.to` or an index that is a list. PyTorch's pinned allocator reuses memory only after the copy.
    """
    tensor = torch.as_tensor(values)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def own_stream() -> AbstractContextManager[object]:
    """Return a context in which the thread's work on the GPU has a CUDA stream of its own, after all work before it. In
    a process that does not use a GPU it changes nothing.

    On the default stream TensorRT synchronises the device in every step, and other threads' work is ordered with the
    thread's.
    """
    if not torch.cuda.is_initialized():
        return nullcontext()
    torch.cuda.synchronize()
    return torch.cuda.stream(torch.cuda.Stream())
