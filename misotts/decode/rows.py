"""Mimi's decoder over the streams of one call, with a streaming state that has a row for every slot.

A call takes as long as its number of rows requires, whether they hold a stream or not, and moshi runs all rows of a
state. So a call gets a state with few rows: views of the first rows, which copy nothing, or, if the call's streams are
few among many, a smaller state into which their rows are copied and from which they are copied back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from moshi.models.compression import MimiModel
from moshi.modules.streaming import State, StreamingContainer
from moshi.modules.transformer import RingKVCache

from misotts.mimi import enlarge_rings
from misotts.slots import PACKED_SHARE, call_rows, possible_rows

GRAPH_FRAMES = 4
"""Largest number of frames of a call that runs as a CUDA graph; a longer call keeps the device busy without one."""

States = dict[str, State]
"""moshi's streaming state: one object for each module, by the module's name."""

Move = tuple[torch.Tensor, torch.Tensor, int]
"""A tensor with all slots, the tensor it is packed into, and the dimension of both that counts the rows."""


class DecoderRows:
    """The decoder, and one row of its state for every slot."""

    def __init__(self, mimi: MimiModel, slots: int, max_frames: int) -> None:
        """`max_frames`: largest number of frames of a call."""
        self._network = _MimiDecoder(mimi)
        self._slots = slots
        self._device = next(mimi.parameters()).device
        self._codebooks = mimi.num_codebooks
        steps = max_frames * round(mimi.encoder_frame_rate / mimi.frame_rate)
        # No stream has the last row: the unused rows of a packed call are copies of it.
        self._state = self._new_state(slots + 1, steps)
        self._packed = self._new_state(max(slots // PACKED_SHARE, 1), steps)
        self._views: dict[tuple[int, bool, int], _View] = {}
        self._graph_pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None

    def _new_state(self, rows: int, steps: int) -> States:
        with self._network.streaming(rows):
            states: States = self._network.get_streaming_state()
        enlarge_rings(states.values(), steps)
        return states

    @torch.inference_mode()
    def prepare(self) -> None:
        """On a GPU, capture every graph that a call can need, so that no caller waits for one."""
        if self._graph_pool is None:
            return
        for rows, packed in sorted(possible_rows(self._slots), reverse=True):  # the largest sizes the graphs' memory
            for frames in range(GRAPH_FRAMES, 0, -1):
                view = self._views[rows, packed, frames] = self._view(rows, packed, frames)
                codes = torch.zeros((rows, self._codebooks, frames), dtype=torch.int64, device=self._device)
                for _ in range(2):  # without a stream, so that no state changes; the second call captures
                    view.run(codes, torch.zeros(rows, dtype=torch.bool), torch.full((rows,), self._slots))

    def reset(self, slots: list[int]) -> None:
        """Start new streams in `slots`."""
        if slots:
            mask = torch.zeros(self._slots + 1, dtype=torch.bool)
            mask[slots] = True
            mask = mask.to(self._device)
            for state in self._state.values():
                state.reset(mask)

    def decode(self, codes_of: Mapping[int, npt.NDArray[np.int32]]) -> dict[int, npt.NDArray[np.float32]]:
        """Decode pieces of equal length, by slot: int32 [frames, codebooks] → float32 [frames * 1920]."""
        rows, packed = call_rows(list(codes_of), self._slots)
        row_of = {slot: row if packed else slot for row, slot in enumerate(codes_of)}
        frames = len(next(iter(codes_of.values())))
        codes = np.zeros((rows, self._codebooks, frames), np.int64)
        running = np.zeros(rows, bool)
        slot_of = np.full(rows, self._slots)
        for slot, piece in codes_of.items():
            row = row_of[slot]
            codes[row], running[row], slot_of[row] = piece.T, True, slot
        view = self._views.get((rows, packed, frames))
        if view is None:
            view = self._views[rows, packed, frames] = self._view(rows, packed, frames)
        codes_there = torch.from_numpy(codes).to(self._device)
        audio = view.run(codes_there, torch.from_numpy(running), torch.from_numpy(slot_of))
        return {slot: audio[row] for slot, row in row_of.items()}

    def _view(self, rows: int, packed: bool, frames: int) -> _View:
        state = _first_rows(self._packed if packed else self._state, rows)
        moves: list[Move] = []
        if packed:
            pairs = zip(_tensors(self._state), _tensors(state), strict=True)
            moves = [(whole, part, dimension) for (whole, dimension), (part, _) in pairs]
        return _View(self._network, state, moves, self._graph_pool if frames <= GRAPH_FRAMES else None)


class _MimiDecoder(StreamingContainer):
    """Mimi's decoder alone, so that no streaming state is allocated for its encoder."""

    def __init__(self, mimi: MimiModel) -> None:
        super().__init__()
        assert mimi.decoder_transformer is not None
        self.quantizer, self.upsample = mimi.quantizer, mimi.upsample
        self.transformer, self.decoder = mimi.decoder_transformer, mimi.decoder

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        (latent,) = self.transformer(self.upsample(self.quantizer.decode(codes)))
        audio: torch.Tensor = self.decoder(latent)
        return audio


class _View:
    """The network over some rows, for one number of frames."""

    def __init__(self, network: _MimiDecoder, state: States, moves: list[Move], graph_pool: Any) -> None:
        """`moves`: what is copied to `state` before a call and back after it. `graph_pool`: the memory that the CUDA
        graphs of all views share; None if the view has no graph."""
        self._network, self._state, self._moves = network, state, moves
        rows, device = state[""].batch_size, state[""].device
        self._running = torch.ones(rows, dtype=torch.bool, device=device)
        self._slot_of = torch.zeros(rows, dtype=torch.int64, device=device)
        for module_state in self._state.values():
            module_state.exec_mask = self._running
        self._forward = self._run_rows if graph_pool is None else _Graphed(self._run_rows, graph_pool)

    def run(self, codes: torch.Tensor, running: torch.Tensor, slot_of: torch.Tensor) -> npt.NDArray[np.float32]:
        """Codes [rows, codebooks, frames] → audio [rows, samples].

        `running` [rows] and `slot_of` [rows] are on the host: which rows hold a stream, and each row's slot.
        """
        self._network.set_streaming_state(self._state)
        self._running.copy_(running)
        if self._moves:
            self._slot_of.copy_(slot_of)
        return self._forward(codes)[:, 0].cpu().numpy()

    def _run_rows(self, codes: torch.Tensor) -> torch.Tensor:
        for whole, packed, rows in self._moves:
            packed.copy_(whole.index_select(rows, self._slot_of))
        audio: torch.Tensor = self._network(codes)
        for whole, packed, rows in self._moves:
            whole.index_copy_(rows, self._slot_of, packed)
        return audio


class _Graphed:
    """A network as a CUDA graph, for input of one shape.

    moshi has such a class too, but each of its graphs allocates its own memory, and there are dozens of them beside the
    KV pool.
    """

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor], pool: Any) -> None:
        self._network, self._pool = network, pool
        self._codes: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Run the network. The result is valid until any graph of the pool runs next."""
        if self._codes is None:  # the first call loads libraries and chooses kernels, which cannot be captured
            self._codes = codes.clone()
            return self._network(codes)
        self._codes.copy_(codes)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local"):
                self._audio = self._network(self._codes)
        self._graph.replay()  # a capture records the network and does not run it
        return self._audio


def _first_rows(states: States, rows: int) -> States:
    """Return states for a batch of `rows`: views of the first rows of `states`.

    moshi's states hold their tensors in the fields of dataclasses, each with one row per stream. It has no other way to
    run a part of the rows.
    """

    def cut(value: Any) -> Any:
        if isinstance(value, RingKVCache):
            ring = copy.copy(value)
            ring.cache, ring.end_offset = value.cache[:, :rows], value.end_offset[:rows]
            return ring
        return value[:rows] if isinstance(value, torch.Tensor) else value

    views = {}
    for name, state in states.items():
        values = {field.name: cut(getattr(state, field.name)) for field in fields(state)}
        views[name] = replace(state, **values | {"batch_size": rows})
    return views


def _tensors(states: States) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield every tensor with a row for each stream, and the dimension that counts the rows."""
    for state in states.values():
        for field in fields(state):
            value = getattr(state, field.name)
            if isinstance(value, RingKVCache):
                yield value.cache, 1
                yield value.end_offset, 0
            elif isinstance(value, torch.Tensor):
                yield value, 0
