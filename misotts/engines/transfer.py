"""Copies from host to device that do not wait."""

from __future__ import annotations

import torch


def to_device(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a host tensor to `device`.

    For a GPU the copy goes through pinned memory, so the host does not wait for the device's work, as it would with an
    ordinary `.to` or an index that is a list. PyTorch's pinned allocator reuses memory only after the copy.
    """
    if torch.device(device).type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
