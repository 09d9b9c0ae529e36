"""One conversation: what was said in it, as rows of prompts.

The prompt of a turn is the voice, the turns before, oldest first, and what the turn brings: its CONTEXT and its TEXT. A
turn that is over is its own part of its prompt, the frames that were heard of it, and one frame of zeros. These are the
rows that a request without SESSION would have for the same content, so the KV blocks are found by their content, and
the frames are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from misotts.config import FRAME_MS, MASKED
from misotts.generate.utterance import Utterance
from misotts.order import Rows

TRIMMED_SHARE = 3
"""A window that is full loses at least this part, one third, at once: after each trimming all blocks behind the voice
are computed anew."""


@dataclass(eq=False)
class LastTurn:
    """The last utterance of a conversation. The next one may say that less of it was heard than was delivered."""

    ticket: int
    prompt: Rows
    """Its CONTEXT and TEXT."""
    speech: Rows
    """Its frames, without one that ends speech."""
    delivered: int
    """Number of frames that were delivered."""

    def heard(self, heard_ms: int | None) -> Rows | None:
        """Return the rows of the turn as far as it was heard; None if not even a frame was."""
        frames = self.delivered if heard_ms is None else heard_ms // FRAME_MS
        speech = self.speech[:frames]
        if not len(speech):
            return None
        end = np.zeros((1, speech.shape[1]), np.int32)
        end[:, -1] = MASKED
        rows: Rows = np.concatenate([self.prompt, speech, end])
        return rows


@dataclass(eq=False)
class Running:
    """The utterance of a conversation that waits for its slot or speaks."""

    utterance: Utterance
    turns: list[Rows]
    """The turns before, as its prompt has them."""
    prompt: Rows
    """Its CONTEXT and TEXT."""


@dataclass(eq=False)
class Conversation:
    """What `generate` keeps of a conversation."""

    name: str
    used: float = 0.0
    """Time at which its last turn began or ended."""
    turns: list[Rows] = field(default_factory=list)
    """All turns but the last, oldest first."""
    last: LastTurn | None = None
    running: Running | None = None
    keys: list[bytes] = field(default_factory=list)
    """Keys of the KV blocks that hold more than the voice."""

    @property
    def size(self) -> int:
        """Bytes of what was said."""
        last = [self.last.prompt, self.last.speech] if self.last else []
        return sum(rows.nbytes for rows in (*self.turns, *last))

    def begin(self, utterance: Utterance, window: int) -> bool:
        """Complete the prompt of a new turn; return True if turns had to go because they did not fit in `window`."""
        order = utterance.order
        voice, prompt = order.frames[: order.voice], order.frames[order.voice :]
        closed = self.last.heard(order.heard_ms) if self.last else None
        said = [*self.turns, *([] if closed is None else [closed])]
        turns = newest(said, window - len(order.frames) - order.max_frames, window)
        utterance.order = replace(order, frames=np.concatenate([voice, *turns, prompt]))
        utterance.session_turns = len(turns)
        self.running = Running(utterance, turns, prompt)
        return len(turns) < len(said)

    def add(self, running: Running, delivered: int) -> LastTurn:
        """Add a turn that was spoken, and of which `delivered` frames were delivered; return it."""
        frames = [codes for codes in running.utterance.frames if codes.any()]
        speech = np.full((len(frames), running.prompt.shape[1]), MASKED, np.int32)
        if frames:
            speech[:, :-1] = frames
        self.turns = running.turns
        self.last = LastTurn(running.utterance.order.ticket, running.prompt, speech, delivered)
        return self.last


def newest(turns: Sequence[Rows], free: int, window: int) -> list[Rows]:
    """Return the newest of `turns` that fit in `free` positions: all, or so few that a third of `window` is free."""
    kept, used = list(turns), sum(map(len, turns))
    most = free if used <= free else min(free, used - -(-window // TRIMMED_SHARE))
    while kept and used > most:
        used -= len(kept.pop(0))
    return kept
