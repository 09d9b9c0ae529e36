"""Block tables and sampling parameters of all slots as arrays: a step gathers their rows and builds none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from misotts.engines.interface import Step
from misotts.generate.scheduler import Part
from misotts.generate.utterance import Utterance


class SlotTable:
    """One row for each slot."""

    def __init__(self, slots: int, columns: int) -> None:
        """`columns`: blocks of the longest utterance."""
        self._tables = np.zeros((slots, columns), np.int32)
        self._blocks = np.zeros(slots, np.int64)
        """Number of blocks in each table."""
        self._seeds = np.zeros(slots, np.int64)
        self._temperature = np.ones(slots, np.float32)
        self._top_k = np.ones(slots, np.int64)

    def step(self, parts: Sequence[Part]) -> Step:
        """Return the engine's step for the scheduler's parts, the generating ones first."""
        utterances = [part.utterance for part in parts]
        rows = [utterances[0].order.frames[:0].astype(np.int64)]
        for part in parts:
            if part.prefill:
                self._set(part.utterance)
                # Frames are among them when they are computed once more after a preemption.
                start = part.utterance.cached
                rows.append(part.utterance.rows(start, start + part.length).astype(np.int64))
            else:
                self._extend(part.utterance)
        slots = np.array([utterance.slot for utterance in utterances], np.int64)
        return Step(
            slots=slots,
            starts=np.array([utterance.cached for utterance in utterances], np.int32),
            lengths=np.array([part.length for part in parts], np.int32),
            blocks=self._tables[slots],
            generating=sum(not part.prefill for part in parts),
            rows=np.concatenate(rows),
            samples=np.array([part.samples for part in parts], np.bool_),
            numbers=np.array([utterance.sampled for utterance in utterances], np.int64),
            seeds=self._seeds[slots],
            temperature=self._temperature[slots],
            top_k=self._top_k[slots],
        )

    def _set(self, utterance: Utterance) -> None:
        """Fill the row of an utterance that is being prefilled."""
        slot, blocks, order = utterance.slot, utterance.blocks, utterance.order
        self._tables[slot] = 0
        self._tables[slot, : len(blocks)] = blocks
        self._blocks[slot] = len(blocks)
        greedy = order.temperature == 0
        self._seeds[slot] = order.seed
        self._temperature[slot] = 1.0 if greedy else order.temperature
        self._top_k[slot] = 1 if greedy else order.top_k

    def _extend(self, utterance: Utterance) -> None:
        """Add the blocks by which a generating utterance has grown."""
        slot, known = utterance.slot, self._blocks[utterance.slot]
        if len(utterance.blocks) != known:
            self._tables[slot, known : len(utterance.blocks)] = utterance.blocks[known:]
            self._blocks[slot] = len(utterance.blocks)
