"""The decode stage: frames → 24 kHz audio, with a slot of Mimi's streaming state for each stream."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from moshi.models import MimiModel
from moshi.modules.streaming import State, StreamingContainer
from moshi.modules.transformer import RingKVCache

from misotts.config import FRAME_SAMPLES
from misotts.slots import in_order, rounds, rows_for

MAX_FRAMES = 25
"""Frames of a stream in one call; a longer piece is cut."""

GRAPH_FRAMES = 4
"""Most frames of a call that becomes a CUDA graph; a longer one keeps the device busy without."""

TAIL_SAMPLES = 480
"""The last 20 ms of speech tell whether it has died away or would be chopped."""

TAIL_LOUDNESS = 0.01
"""RMS above which it would be: -40 dB of full scale."""


@dataclass(frozen=True)
class Codes:
    """A piece of one stream."""

    slot: int
    first: bool
    """Whether the stream starts here, so that the slot's state is reset."""
    codes: np.ndarray
    """int32 [frames, codebooks]; may have no frames. A last frame of zeros is the end of speech."""


class Decoder:
    """Streams of codes → streams of audio, any mix of streams and lengths in one call.

    Each stream's audio is what it would be alone, up to 1e-6 (a batched product rounds differently).

    The end-of-speech frame is not speech, but Mimi makes of it how the last sound dies away. It is heard only where the
    speech before it ends loud and so would be chopped; then it counts as a frame of the utterance.
    """

    def __init__(self, mimi: MimiModel, slots: int) -> None:
        self._network = _MimiDecoder(mimi)
        self._slots = slots
        self._device = next(mimi.parameters()).device
        self._codebooks = mimi.num_codebooks
        with self._network.streaming(slots):
            self._state = self._network.get_streaming_state()
        steps_per_frame = round(mimi.encoder_frame_rate / mimi.frame_rate)
        for state in self._state.values():
            if cache := getattr(state, "kv_cache", None):
                state.kv_cache = _larger(cache, MAX_FRAMES * steps_per_frame)
        self._views: dict[tuple[int, int], _View] = {}
        self._graph_pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None
        self._ends_loud = np.zeros(slots, bool)

    def decode(self, pieces: Sequence[Codes]) -> list[np.ndarray]:
        """Return each piece's audio, float32 [frames * 1920], less an end frame that is not heard.

        At most one piece per slot.
        """
        return in_order(self.decode_each(pieces))

    @torch.inference_mode()
    def decode_each(self, pieces: Sequence[Codes]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each piece's number and audio as soon as it is done: a stream's first frame does not wait for the many
        that others have."""
        assert len({p.slot for p in pieces}) == len(pieces), "two pieces of one stream in one call"
        self._reset([p.slot for p in pieces if p.first])
        lengths = [len(p.codes) for p in pieces]
        audio = [np.empty(length * FRAME_SAMPLES, np.float32) for length in lengths]
        for number, length in enumerate(lengths):
            if not length:
                yield number, audio[number]
        for start, end, members in rounds(lengths):
            for begin in range(start, end, MAX_FRAMES):
                stop = min(begin + MAX_FRAMES, end)
                out = self._call({pieces[m].slot: pieces[m].codes[begin:stop] for m in members})
                for member in members:
                    audio[member][begin * FRAME_SAMPLES : stop * FRAME_SAMPLES] = out[pieces[member].slot]
            for member in members:
                if lengths[member] == end:
                    yield member, self._without_silent_end(pieces[member], audio[member])

    def _without_silent_end(self, piece: Codes, audio: np.ndarray) -> np.ndarray:
        ends = len(piece.codes) > 0 and not piece.codes[-1].any()
        speech = audio[:-FRAME_SAMPLES] if ends else audio
        if len(speech):
            self._ends_loud[piece.slot] = np.sqrt(np.mean(speech[-TAIL_SAMPLES:] ** 2)) > TAIL_LOUDNESS
        return audio if ends and self._ends_loud[piece.slot] else speech

    def _call(self, codes_of: dict[int, np.ndarray]) -> np.ndarray:
        """Decode equally long pieces by slot → [rows, samples]."""
        rows = rows_for(max(codes_of), self._slots)
        frames = len(next(iter(codes_of.values())))
        codes = np.zeros((rows, self._codebooks, frames), np.int64)
        running = np.zeros(rows, bool)
        for slot, piece in codes_of.items():
            codes[slot], running[slot] = piece.T, True
        view = self._views.get((rows, frames))
        if view is None:
            pool = self._graph_pool if frames <= GRAPH_FRAMES else None
            view = self._views[rows, frames] = _View(self._network, self._state, rows, pool)
        return view.run(torch.from_numpy(codes).to(self._device), torch.from_numpy(running).to(self._device))

    def _reset(self, slots: list[int]) -> None:
        self._ends_loud[slots] = False
        if slots:
            mask = torch.zeros(self._slots, dtype=torch.bool)
            mask[slots] = True
            mask = mask.to(self._device)
            for state in self._state.values():
                state.reset(mask)


class _MimiDecoder(StreamingContainer):
    """The half of Mimi that decodes, so that no streaming state is kept for the half that encodes."""

    def __init__(self, mimi: MimiModel) -> None:
        super().__init__()
        assert mimi.decoder_transformer is not None
        self.quantizer, self.upsample = mimi.quantizer, mimi.upsample
        self.transformer, self.decoder = mimi.decoder_transformer, mimi.decoder

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        (latent,) = self.transformer(self.upsample(self.quantizer.decode(codes)))
        return self.decoder(latent)


class _View:
    """The network over the first `rows` slots, for one number of frames: state tensors are views, so a call of few
    streams costs few streams."""

    def __init__(self, network: _MimiDecoder, state: dict[str, Any], rows: int, graph_pool: Any) -> None:
        """`graph_pool`: memory that the CUDA graphs of all views share; None where the view is to have no graph."""
        self._network = network
        self._state = {name: _first_rows(module_state, rows) for name, module_state in state.items()}
        self._running = torch.ones(rows, dtype=torch.bool, device=state[""].device)
        for module_state in self._state.values():
            module_state.exec_mask = self._running
        self._forward = network if graph_pool is None else _Graphed(network, graph_pool)

    def run(self, codes: torch.Tensor, running: torch.Tensor) -> np.ndarray:
        self._network.set_streaming_state(self._state)
        self._running.copy_(running)
        return self._forward(codes)[:, 0].cpu().numpy()


class _Graphed:
    """A network as a CUDA graph, for input of one shape.

    moshi has such a class too, but each of its graphs keeps memory of its own: dozens of them would take what the KV
    pool has left.
    """

    def __init__(self, network: _MimiDecoder, pool: Any) -> None:
        self._network, self._pool = network, pool
        self._codes: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Run the network; what is returned holds until any graph of the pool runs next."""
        if self._codes is None:  # libraries load and choose their kernels, which cannot be captured
            self._codes = codes.clone()
            return self._network(codes)
        self._codes.copy_(codes)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local"):
                self._audio = self._network(self._codes)
        self._graph.replay()  # a capture runs nothing
        return self._audio


def _first_rows(state: State, rows: int) -> State:
    view = copy.copy(state)
    view.batch_size = rows
    for name, value in vars(state).items():
        if isinstance(value, torch.Tensor):
            setattr(view, name, value[:rows])
        elif isinstance(value, RingKVCache):
            ring = copy.copy(value)
            ring.cache, ring.end_offset = value.cache[:, :rows], value.end_offset[:rows]
            setattr(view, name, ring)
    return view


def _larger(ring: RingKVCache, steps: int) -> RingKVCache:
    """A ring that holds `steps` more than the attention's context.

    moshi's ring holds just the context, so a call of several steps overwrites the oldest keys before its first steps
    have read them: after 10 s of audio the samples would depend on how the stream was cut (and the write that a
    masked row makes would eat keys that it still needs).
    """
    _, rows, heads, capacity, width = ring.cache.shape
    return RingKVCache(rows, heads, width, capacity + steps, device=ring.cache.device, dtype=ring.cache.dtype)
