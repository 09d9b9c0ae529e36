"""The conversations that `generate` keeps, and the turns that wait for the one before to be gone.

Their number is bounded, and so is the time since their last turn; the model's window bounds what each holds. A
conversation holds no KV block: its blocks are prefixes of the pool, which are evicted when others need them. What a
conversation forgets is emptied in the pool too, unless an utterance holds it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from misotts.generate.blocks import BlockPool
from misotts.generate.conversation import Conversation, Running
from misotts.generate.utterance import Utterance
from misotts_client.errors import Cancelled, InvalidArgument, error_of

OVERLAP_S = 0.5
"""A turn waits this long for the one before to be gone: the note that its caller has left may come behind the turn."""


@dataclass(frozen=True)
class SessionOptions:
    """Options of the generate stage that bound conversations."""

    most: int = 1024
    """Conversations that are kept; beyond it the owner that has the most loses its least recently used one."""
    idle_s: float = 600.0
    """Time since its last turn after which a conversation is forgotten."""


SESSIONS = SessionOptions()


@dataclass
class SessionCounts:
    """Counts since start."""

    turns: int = 0
    """Turns that were added to a conversation."""
    trimmed: int = 0
    """Turns with a prompt that lost older turns."""
    evicted: int = 0
    """Conversations forgotten because there were too many."""
    expired: int = 0
    """Conversations forgotten because of their idle time."""


def owner(name: str) -> str:
    """Return what the gateway has put before the name of a conversation."""
    return name.rpartition("/")[0]


def overlap() -> InvalidArgument:
    """Return the error of a turn that comes while another one speaks."""
    return InvalidArgument("SESSION", "another utterance of the conversation is running; cancel it or wait for its end")


class Conversations:
    """Not thread-safe. Times are seconds of the caller's clock."""

    def __init__(self, pool: BlockPool, window: int, options: SessionOptions) -> None:
        """`window`: most positions of a prompt and its speech."""
        self._pool, self._window, self._options = pool, window, options
        self.counts = SessionCounts()
        self.bytes = 0
        """Bytes of what was said in all of them."""
        self._known: OrderedDict[str, Conversation] = OrderedDict()
        """By name, the least recently used first."""
        self._of_owner: Counter[str] = Counter()
        self._running: dict[Utterance, Conversation] = {}
        self._of_ticket: dict[int, Conversation] = {}
        """By the ticket of the last turn."""
        self._waiting: list[tuple[Utterance, float]] = []
        """Turns that wait for the one before, and since when, in the order of their arrival."""

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Conversation]:
        """Return all, the least recently used first."""
        return iter(self._known.values())

    @property
    def waiting(self) -> int:
        """Number of turns that wait for the one before."""
        return len(self._waiting)

    def free(self, name: str) -> bool:
        """True if a turn of the conversation may begin: none runs, and none waits."""
        known = self._known.get(name)
        return not (known and known.running) and all(other.order.session != name for other, _ in self._waiting)

    def begin(self, utterance: Utterance, now: float) -> None:
        """Begin a turn of a conversation that is `free`: complete its prompt."""
        name = utterance.order.session
        assert name is not None
        if name not in self._known:
            self._known[name] = Conversation(name)
            self._of_owner[owner(name)] += 1
        conversation = self._known[name]
        self._touch(conversation, now)
        self.counts.trimmed += conversation.begin(utterance, self._window)
        self._running[utterance] = conversation
        self._evict()

    def end(self, utterance: Utterance, finish: str, delivered: int, now: float) -> None:
        """End a turn, whatever ends it, when its blocks have been freed. One that has spoken, or was cancelled after
        its first frame, becomes a part of the conversation; one that has failed leaves no trace. `delivered`: frames
        that its caller got, as far as is known: the next turn may say that a chunk on its way was heard."""
        self._waiting = [(other, since) for other, since in self._waiting if other is not utterance]
        conversation = self._running.pop(utterance, None)
        if conversation is None:
            return
        running, conversation.running = conversation.running, None
        assert running is not None
        known = self._known.get(conversation.name) is conversation
        error = error_of(finish)
        keys = utterance.prefix_keys[utterance.order.voice // self._pool.block_size :]
        dead = set(conversation.keys) | set(keys)
        if known and (error is None or (isinstance(error, Cancelled) and utterance.frames)):
            self._add(conversation, running, delivered, now)
            conversation.keys = keys
        self._pool.forget(dead - set(conversation.keys if known else ()))
        if known and (utterance.order.session_end or conversation.last is None):
            self.forget(conversation.name)
        self._evict()

    def _add(self, conversation: Conversation, running: Running, delivered: int, now: float) -> None:
        self.bytes -= conversation.size
        if conversation.last:
            self._of_ticket.pop(conversation.last.ticket, None)
        last = conversation.add(running, delivered)
        if last.ticket:
            self._of_ticket[last.ticket] = conversation
        self.bytes += conversation.size
        self.counts.turns += 1
        self._touch(conversation, now)

    def cut(self, ticket: int, frames: int) -> None:
        """Record that the caller of a turn that is over has left with `frames` frames of it."""
        if (conversation := self._of_ticket.get(ticket)) and (last := conversation.last):
            last.delivered = min(last.delivered, frames)

    def forget(self, name: str) -> None:
        """Forget a conversation. A turn of it that runs goes on, and leaves no trace."""
        if conversation := self._known.pop(name, None):
            self.bytes -= conversation.size
            self._of_owner[owner(name)] -= 1
            if not self._of_owner[owner(name)]:
                del self._of_owner[owner(name)]
            if conversation.last:
                self._of_ticket.pop(conversation.last.ticket, None)
            conversation.turns, conversation.last = [], None
            self._pool.forget(conversation.keys)

    def expire(self, now: float) -> None:
        """Forget the conversations that have been idle for too long."""
        while (oldest := next(self._idle(), None)) and now - oldest.used >= self._options.idle_s:
            self.counts.expired += 1
            self.forget(oldest.name)

    def wait(self, utterance: Utterance, now: float) -> None:
        """Let a turn wait for the one before."""
        self._waiting.append((utterance, now))

    def take_waiting(self, now: float) -> Iterator[tuple[Utterance, bool]]:
        """Yield the turns that need not wait any longer, and whether each may begin; else another one still speaks."""
        waiting, self._waiting = self._waiting, []
        for utterance, since in waiting:
            begins = self.free(utterance.order.session or "")
            if begins or now - since >= OVERLAP_S:
                yield utterance, begins
            else:
                self._waiting.append((utterance, since))

    def _touch(self, conversation: Conversation, now: float) -> None:
        conversation.used = now
        self._known.move_to_end(conversation.name)

    def _idle(self) -> Iterator[Conversation]:
        """Yield the conversations without a running turn, the least recently used first."""
        return (each for each in self._known.values() if not each.running)

    def _evict(self) -> None:
        """Forget conversations of the owners that have the most, so that one caller cannot push out all others."""
        while len(self._known) > self._options.most and (idle := list(self._idle())):
            self.counts.evicted += 1
            self.forget(max(idle, key=lambda each: self._of_owner[owner(each.name)]).name)
