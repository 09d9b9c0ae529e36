"""An emulated GPU for tests on machines without one: code that uses device "cuda" runs on the CPU, under CUDA's rules.

The `device` of such tensors is cuda, an operation with a tensor on the CPU fails as on a GPU, and `waits` lists each
operation for which the host would wait for the device. The target of a copy that does not wait holds wrong values until
its event is awaited. A graph records operations during capture and refuses those that a capture forbids; a replay
computes them again in the same memory. Kernels, their rounding, memory and speed are not emulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA = torch.device("cuda", 0)
Plain = torch._C.DisableTorchFunctionSubclass

FREE_BYTES = 64 << 20

WAITS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "masked_select", "equal", "cpu"}
"""Methods and functions with results that depend on what the device has computed."""
ACROSS = {"copy_", "to", "cpu", "__getitem__", "__setitem__", "_set_grad"}
"""Functions that accept tensors of both devices."""
READS = {
    "__get__",
    "__len__",
    "size",
    "dim",
    "stride",
    "numel",
    "is_contiguous",
    "element_size",
    "__repr__",
    "__hash__",
}
"""Functions without work on the device."""


class OnGpu(torch.Tensor):
    """A tensor of the emulated device."""


class EmulatedGpu(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """Operations for which the host waited for the device, in order."""
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._capturing: Graph | None = None
        self.graphs: list[Graph] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        here = any(isinstance(tensor, OnGpu) for tensor in tensors)
        if func == torch.Tensor.device.__get__:
            return CUDA if here else torch.device("cpu")
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return here
        if name == "pin_memory" and not here:
            return args[0].clone()
        if name in ("to", "cpu"):
            return self._move(name, args, kwargs, here)
        there = kwargs.pop("device", None)
        if there is not None and torch.device(there).type == "cuda":
            if func is torch.tensor:
                self._wait("torch.tensor on the device")
            here = True
        elif there is not None and not here:
            kwargs["device"] = there
        if not here:
            with Plain():
                return func(*args, **kwargs)
        self._check_rules(func, name, args, tensors)
        return self._run(func, name, args, kwargs)

    def _check_rules(self, func: Any, name: str, args: Any, tensors: list[torch.Tensor]) -> None:
        if name == "numpy" or name == "__array__":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        left = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.dim()]
        if left and name not in ACROSS:
            raise RuntimeError(f"{resolve_name(func) or name}: tensors on cuda and on the CPU: {left[0].shape}")
        if name in WAITS:
            self._wait(name)
        if name == "copy_" and left:
            self._wait("copy_ from the host")
        if name in ("__getitem__", "__setitem__"):
            self._check_index(name, args)

    def _check_index(self, name: str, args: Any) -> None:
        """Record the waits of an index: one that is a list or on the host is copied to the device first, and a mask's
        number of rows has to be read."""
        if name == "__setitem__" and isinstance(args[2], torch.Tensor) and not isinstance(args[2], OnGpu):
            raise RuntimeError("__setitem__: the value is on the CPU")
        if not isinstance(args[0], OnGpu):
            raise RuntimeError(f"{name}: a tensor on the CPU, an index or value on cuda")
        for index in args[1] if isinstance(args[1], tuple) else (args[1],):
            if isinstance(index, torch.Tensor) and index.dtype == torch.bool:
                self._wait(f"{name} by a mask")
            elif isinstance(index, list) or (isinstance(index, torch.Tensor) and not isinstance(index, OnGpu)):
                self._wait(f"{name} by an index on the host")

    def _move(self, name: str, args: Any, kwargs: dict[str, Any], here: bool) -> torch.Tensor:
        tensor, *rest = args
        wanted = "cpu" if name == "cpu" else kwargs.get("device")
        dtype, waits = kwargs.get("dtype"), not kwargs.get("non_blocking", False)
        for value in rest:
            if isinstance(value, (str, torch.device)):
                wanted = value
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, bool):
                waits = not value
        target = None if wanted is None else torch.device(wanted)
        with Plain():
            converted = tensor if dtype in (None, tensor.dtype) else tensor.to(dtype)
        to_gpu = here if target is None else target.type == "cuda"
        if to_gpu == here:
            if converted is tensor:
                return tensor
            return self._run(torch.Tensor.to, "to", (tensor, dtype), {}) if here else converted
        if self._capturing:
            raise RuntimeError("a copy between host and device in a graph")
        if waits:
            self._wait("a copy to the device" if to_gpu else "a copy to the host")
        with Plain():
            copy = converted.as_subclass(torch.Tensor).clone()
            if to_gpu:
                return copy.as_subclass(OnGpu)
            if waits:
                return copy
            stale = torch.full_like(copy, 77)
            self._copies.append((stale, copy))
            return stale

    def _run(self, func: Callable[..., Any], name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
        with Plain():
            if self._capturing and in_place:
                self._capturing.before.append((args[0], args[0].clone()))
            out = func(*args, **kwargs)
            if name == "__iter__":
                return iter([x.as_subclass(OnGpu) for x in out])
            out = tree_map_only(torch.Tensor, lambda x: x if x is args[0] else x.as_subclass(OnGpu), out)
        if self._capturing and name not in READS:
            self._capturing.operations.append((func, args, kwargs, None if in_place else out))
        return out

    def _wait(self, why: str) -> None:
        if self._capturing:
            raise RuntimeError(f"{why}: operation not permitted when stream is capturing")
        self.waits.append(why)
        self.deliver()

    def deliver(self) -> None:
        """Complete all copies to the host."""
        with Plain():
            for target, source in self._copies:
                target.copy_(source)
        self._copies.clear()

    @contextmanager
    def capture(self, graph: Graph, **_: Any) -> Iterator[None]:
        """Replace `torch.cuda.graph`: captured operations have no effect until a replay."""
        self._capturing = graph
        try:
            yield
        finally:
            self._capturing = None
            with torch._C.DisableTorchFunction():
                for tensor, value in reversed(graph.before):
                    tensor.copy_(value)

    def graph(self) -> Graph:
        self.graphs.append(Graph())
        return self.graphs[-1]

    def event(self, **_: Any) -> Event:
        return Event(self)


class Graph:
    """Replaces `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.operations: list[tuple[Callable[..., Any], Any, dict[str, Any], Any]] = []
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        with torch._C.DisableTorchFunction():
            for func, args, kwargs, recorded in self.operations:
                again = func(*args, **kwargs)
                if recorded is None:
                    continue
                for old, new in zip(tree_flatten(recorded)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Generator(torch.Generator):
    """Replaces `torch.Generator`, for any device."""

    def __new__(cls, device: object = "cpu") -> Generator:
        return super().__new__(cls)


class Event:
    """Replaces `torch.cuda.Event`; the first `query` returns False."""

    def __init__(self, device: EmulatedGpu) -> None:
        self._device, self._asked = device, 0

    def record(self) -> None:
        pass

    def query(self) -> bool:
        self._asked += 1
        if self._asked < 2:
            return False
        self._device.deliver()
        return True

    def synchronize(self) -> None:
        self._device.deliver()


@pytest.fixture
def emulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedGpu]:
    """Within the test, "cuda" is the emulated device. Only in the test's own thread."""
    device = EmulatedGpu()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", device.graph)
    monkeypatch.setattr(torch.cuda, "graph", device.capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "synchronize", device.deliver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (FREE_BYTES, 2 * FREE_BYTES))
    monkeypatch.setattr(torch, "Generator", Generator)
    plain_to = torch.nn.Module.to

    def to(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        return to_gpu(module) if "cuda" in map(str, args) else plain_to(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    with device:
        yield device


def to_gpu(module: torch.nn.Module) -> torch.nn.Module:
    """Replace `module.to("cuda")`, which would put plain tensors into the parameters."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in cast(dict[str, Any], tensors).items():
                if tensor is not None:
                    tensors[name] = tensor.detach().clone().as_subclass(OnGpu)
    return module
