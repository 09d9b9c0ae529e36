"""Copies from host to device that do not wait."""

from __future__ import annotations

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
