"""The process's own sockets, found under /proc/self/fd: what gRPC's Python interface does not let one set or count."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from misotts_gateway.callers import Address, parse_address
from misotts_gateway.limits import CONNECTIONS_PER_ADDRESS, MAX_CONNECTIONS, SEND_BUFFER

_FD = "/proc/self/fd"
RETRANSMISSIONS = 5
"""The kernel sends bytes again after 0.2 s, 0.4 s and so on. A drain does not wait for a caller after this many
retransmissions without an acknowledgement."""


def raise_descriptor_limit() -> int:
    """Raise the limit of open files to what the system allows; return the number of connections that fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 256
    raised = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if raised > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return max(16, max(soft, raised) - 128)


def bound_send_buffers(port: int) -> None:
    """Bound what the kernel keeps for a caller that does not read. Accepted connections inherit it from the port."""
    for _, each in _sockets():
        with contextlib.suppress(OSError):
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and each.getsockname()[1] == port:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


class Connections:
    """Counts the connections of callers by address, and closes the newest beyond the limit."""

    def __init__(self, ports: Collection[int], most: int, exempt: Callable[[Address], bool]) -> None:
        """`most`: connections in all; `exempt(address)` is True for trusted proxies."""
        self._ports, self._exempt = ports, exempt
        self._per_address = min(CONNECTIONS_PER_ADDRESS, max(8, most // 4))
        self._seen: dict[str, int] = {}
        self._next = 0

    def sweep(self) -> tuple[int, int]:
        """Close the newest connections of addresses beyond their limit; return the number of connections and of those
        closed. 13 us a connection."""
        found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        seen: dict[str, int] = {}
        for name, each in _sockets():
            try:
                if each.getsockname()[1] not in self._ports:
                    continue
                peer = each.getpeername()[0]
            except (OSError, IndexError, TypeError):  # it listens, or it is no connection
                continue
            if name not in self._seen:
                self._next += 1
            seen[name] = self._seen.get(name, self._next)
            found[peer].append((seen[name], each.fileno()))
        self._seen = seen
        closed = 0
        for peer, connections in found.items():
            excess = len(connections) - self._per_address
            address = parse_address(peer)
            if excess > 0 and not (address and self._exempt(address)):
                closed += sum(_shut(descriptor) for _, descriptor in sorted(connections)[-excess:])
        return len(seen), closed


def unsent(ports: Collection[int]) -> int:
    """Return the number of connections to `ports` with bytes that the kernel has not sent, or whose receipt is not
    acknowledged. Connections that this process has closed count: the kernel's table has them until all is sent."""
    count = 0
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):  # IPv6 is off
            for line in Path("/proc/self/net", table).read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, _, queues, _, retransmissions, *_ = line.split()
                if int(local.rpartition(":")[2], 16) in ports and int(queues.partition(":")[0], 16):
                    count += int(retransmissions, 16) < RETRANSMISSIONS
    return count


def _shut(descriptor: int) -> int:
    with _borrowed(descriptor) as each, contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # gRPC closes the descriptor when it notices
        return 1
    return 0


def _sockets() -> Iterator[tuple[str, socket.socket]]:
    """Yield the name (its inode) and the socket of each descriptor of TCP."""
    for entry in os.listdir(_FD):
        try:
            name = os.readlink(f"{_FD}/{entry}")
        except OSError:  # closed meanwhile, as the descriptor of the listing is
            continue
        if name.startswith("socket:"):
            with contextlib.suppress(OSError), _borrowed(int(entry)) as each:
                if each.family in (socket.AF_INET, socket.AF_INET6) and each.type == socket.SOCK_STREAM:
                    yield name, each


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Lend a descriptor to a socket object, which does not close it."""
    each = socket.socket(fileno=descriptor)
    try:
        yield each
    finally:
        each.detach()
