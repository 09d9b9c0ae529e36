"""Compiles the Triton kernels of a full-size frame, on any machine: Triton's wheel brings its own assembler.

The assembler reports registers, shared memory and bytes spilled to local memory of each kernel. TRITON_INTERPRET must
not be set.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from misotts.config import FLAVORS, TransformerConfig
from misotts.engines.graph.choices import Choices
from misotts.engines.graph.matrix import Matrix
from misotts.engines.graph.operations import Operations, operations
from misotts.engines.graph.plain import QUANTISED_KV, LayerCache, Tiles
from misotts.engines.table import WeightType
from misotts.engines.transformer import rope_table

CODES, CODEBOOKS, BLOCK_SIZE = 2048, 32, 32
AS_SERVED = operations("fused")


@dataclass(frozen=True)
class Compiled:
    """A kernel, compiled for one of its launches in a frame."""

    kernel: str
    launch: str
    registers: int
    """Registers of a thread."""
    shared: int
    """Bytes of a program's shared memory."""
    local: int
    """Bytes of a thread's stack and spilled registers."""
    tensor_cores: bool
    wgmma: bool
    """True if the tensor cores are used by the instruction of Hopper, four warps at a time."""
    pdl: bool
    """True if it waits for the kernel before: programmatic dependent launch."""
    loads: int
    """Bytes of the widest load from device memory."""


class _Target:
    """A driver that names the target and launches nothing."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: object = None) -> int:
        return 0


@contextmanager
def compiling(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Within the context, launches only compile; yields the list of (kernel name, compiled kernel). Triton's target
    stays set afterwards."""
    found: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found.append((self.__name__, run(self, *args, grid=grid, warmup=True, **kwargs)))

    triton.runtime.driver.set_active(_Target(capability))
    JITFunction.run = compile_only
    try:
        yield found
    finally:
        JITFunction.run = run


def compile_kernels(capability: int = 90) -> list[Compiled]:
    """Compile every kernel that a frame of the 8B model launches, in each of the shapes, types and tiles that make
    another program."""
    found = []
    for launch, make in launches().items():
        with compiling(capability) as compiled:
            make()
        found += [_describe(name, launch, kernel) for name, kernel in compiled]
    return found


def launches() -> dict[str, Callable[[], object]]:
    """Return the launches by name. Tensors are on the CPU and never read: only their types and alignment matter."""
    backbone, depth = TransformerConfig(**FLAVORS["llama-8B"]), TransformerConfig(**FLAVORS["llama-300M"])
    made: dict[str, Callable[[], object]] = {}
    for rows, types in ((1, get_args(WeightType)), (32, ("full",)), (64, get_args(WeightType))):
        for weight_type in types:
            name = f"{rows} rows, {weight_type}"
            made[f"{name}, norm"] = partial(_linear, rows, weight_type, norm=True)
            made[f"{name}, norm, SwiGLU"] = partial(_linear, rows, weight_type, norm=True, swiglu=True)
            made[f"{name}, residual"] = partial(_linear, rows, weight_type, residual=True)
    for tiles, longest in ((1, 1), (64, 1), (64, 16)):
        for kv_dtype in (torch.bfloat16, QUANTISED_KV):
            name = f"{'single positions' if longest == 1 else 'prefill'}, {tiles} tiles, {str(kv_dtype).split('.')[1]}"
            made[name] = partial(_attention, backbone, tiles, longest, kv_dtype)
    for new in (2, 1):
        made[f"depth, {new} new"] = partial(_depth_attention, depth, new)
    made["sample"] = _sample
    made["frame"] = lambda: AS_SERVED.embed_frames(_ints(1, CODEBOOKS), _bf16(CODEBOOKS * 2051, 4096), 2051)
    made["final norm"] = lambda: AS_SERVED.rms_norm(_bf16(1, 4096), _bf16(4096), 1e-5)
    return made | {f"{name}, {launch}": make for name, launch, make in _chosen(backbone, depth)}


def _chosen(backbone: TransformerConfig, depth: TransformerConfig) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Yield name, launch and function for the kernels of `Choices` that are not those of the server."""
    run = operations("fused", Choices(pdl=True))
    gemv, wide = (operations("fused", Choices(pdl=True, gemv=True, products=kind)) for kind in ("tiles", "wide"))
    yield "pdl", "1 row", partial(_linear_kinds, 1, "full", run)
    yield "pdl", "64 rows", partial(_linear_kinds, 64, "full", run)
    yield "pdl, gemv", "int8", partial(_linear_kinds, 1, "int8", gemv)
    yield "pdl, wide", "full", partial(_linear_kinds, 64, "full", wide)
    yield "pdl, wide", "int8", partial(_linear_kinds, 64, "int8", wide)
    yield "pdl, one pass", "sample", partial(_sample, operations("fused", Choices(pdl=True, one_pass=True)))
    yield "pdl", "attention", partial(_attention, backbone, 1, 1, torch.bfloat16, run)
    yield "pdl", "depth attention", partial(_depth_attention, depth, 1, run)
    yield "pdl", "sample", partial(_sample, run)
    yield "pdl", "frame", lambda: run.embed_frames(_ints(1, CODEBOOKS), _bf16(CODEBOOKS * 2051, 4096), 2051)
    yield "pdl", "final norm", lambda: run.rms_norm(_bf16(1, 4096), _bf16(4096), 1e-5)


def _bf16(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


def _ints(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int64)


def _linear_kinds(rows: int, weight_type: WeightType, run: Operations) -> None:
    _linear(rows, weight_type, norm=True, run=run)
    _linear(rows, weight_type, norm=True, swiglu=True, run=run)
    _linear(rows, weight_type, residual=True, run=run)


def _linear(
    rows: int,
    weight_type: WeightType,
    norm: bool = False,
    swiglu: bool = False,
    residual: bool = False,
    run: Operations = AS_SERVED,
) -> None:
    types = {"full": torch.bfloat16, "fp8": torch.float8_e4m3fn, "int8": torch.int8}
    outputs = 1536 * (2 if swiglu else 1)
    matrix = Matrix(
        torch.empty(outputs, 1536, dtype=types[weight_type]), None if weight_type == "full" else torch.empty(outputs)
    )
    run.linear(_bf16(rows, 1536), matrix, 1e-5 if norm else None, swiglu, _bf16(rows, 1536) if residual else None)


def _attention(
    config: TransformerConfig, tile_count: int, longest: int, kv_dtype: torch.dtype, run: Operations = AS_SERVED
) -> None:
    shape = (100, config.num_kv_heads, BLOCK_SIZE)
    pool = torch.empty(2, *shape, config.head_dim).to(kv_dtype)
    cache = LayerCache(pool[0], pool[1], torch.empty(2, *shape) if kv_dtype == QUANTISED_KV else None)
    cos, sin = rope_table(config, 2048)
    rows = tile_count * longest
    qkv = _bf16(rows, (config.num_heads + 2 * config.num_kv_heads) * config.head_dim)
    q = run.rope_and_cache(qkv, cos, sin, _ints(rows), _ints(rows), cache)
    sequence, first_row, position, count = torch.empty(4, tile_count, dtype=torch.int32)
    tiles = Tiles(sequence, first_row, position, count, longest)
    run.paged_attention(q, cache, torch.empty(tile_count, 64, dtype=torch.int32), tiles)


def _depth_attention(config: TransformerConfig, new: int, run: Operations = AS_SERVED) -> None:
    cos, sin = rope_table(config, CODEBOOKS)
    keys = _bf16(1, config.num_kv_heads, CODEBOOKS, config.head_dim)
    qkv = _bf16(new, (config.num_heads + 2 * config.num_kv_heads) * config.head_dim)
    run.depth_attention(qkv, keys, keys, cos, sin, 2 - new)


def _sample(run: Operations = AS_SERVED) -> None:
    noise = torch.empty(1, CODEBOOKS, 64)[:, 1]
    run.sample(_bf16(1, CODES), torch.empty(1), _ints(1), noise, _bf16(2051, 1536))
    run.sample(_bf16(1, CODES), torch.empty(1), _ints(1), noise, None)


def _describe(name: str, launch: str, kernel: Any) -> Compiled:
    usage = _resource_usage(kernel.asm["cubin"])
    ptx = kernel.asm["ptx"]
    widths = [int(n or 1) * int(bits) // 8 for n, bits in re.findall(r"ld\.global\S*?(?:\.v(\d))?\.b(\d+)", ptx)]
    widths += [int(n, 16) for n in re.findall(r"cp\.async\.c[ag]\.shared\.global\S* .*?, 0x([0-9a-f]+)", ptx)]
    return Compiled(
        kernel=name.removesuffix("_kernel"),
        launch=launch,
        registers=usage["REG"],
        shared=kernel.metadata.shared,
        local=usage["STACK"] + usage["LOCAL"],
        tensor_cores="mma.sync" in ptx or "wgmma" in ptx,
        wgmma="wgmma" in ptx,
        pdl="griddepcontrol.wait" in ptx,
        loads=max(widths, default=0),
    )


def _resource_usage(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    line = report.stdout.split("Function")[-1]
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", line)}
