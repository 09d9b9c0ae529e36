"""The address, the key and the request id of a caller, for every protocol."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from misotts_gateway.keys import Key, Keys

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

REQUEST_ID = "x-request-id"
FORWARDED_FOR = "x-forwarded-for"
TRACEPARENT = "traceparent"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_HOPS = 32
_LOCAL = IPv4Address("127.0.0.1")


@dataclass(frozen=True)
class Caller:
    """The caller of one call.

    Attributes:
        address: its IPv4 address, or the first address of the /64 network of its IPv6 address: one machine may have all
            of such a network.
        request_id: names the call in answers, errors and logs.
        key: its API key; None where the server asks for none.
        token: what it showed as its key; empty if nothing. It goes to the next gateway and nowhere else.
        traceparent: the span of which the call is a part, as W3C's header has it; empty if it is of none, or the
            header has another form.
    """

    address: str
    request_id: str
    key: Key | None = None
    token: str = ""
    traceparent: str = ""

    @property
    def tenant(self) -> str:
        """The tenant of the key; empty without keys."""
        return self.key.tenant if self.key else ""

    @property
    def owner(self) -> str:
        """The owner of its conversations: the tenant, or without keys the address."""
        return self.tenant or self.address

    @property
    def share(self) -> str:
        """The name by which queues are fair: the key's, else the address."""
        return f"key {self.key.name}" if self.key else self.address


class Callers:
    """Tells callers apart."""

    def __init__(self, trusted: Sequence[Network], keys: Keys) -> None:
        """`trusted`: peers whose `x-forwarded-for` is believed."""
        self._trusted, self._keys = trusted, keys

    @property
    def keys_required(self) -> bool:
        """True if callers need a key."""
        return self._keys.required

    def identify(self, peer: str, headers: Mapping[str, Sequence[str]]) -> Caller:
        """Return the caller of a call.

        Args:
            peer: the address of the connection's other end, without its port.
            headers: its headers or metadata, by name in lower case.

        Raises:
            UnknownKey: it shows no key that the server knows, and the server asks for one.
        """
        key, token = self._keys.find(headers)
        id = request_id(headers.get(REQUEST_ID, ()))
        traced = headers.get(TRACEPARENT, ())
        span = traced[0] if len(traced) == 1 and _TRACEPARENT.fullmatch(traced[0]) else ""
        return Caller(self.address(peer, headers.get(FORWARDED_FOR, ())), id, key, token, span)

    def address(self, peer: str, forwarded: Sequence[str]) -> str:
        """Return the address that counts: the peer's, or behind trusted proxies the rightmost untrusted one."""
        found = parse_address(peer) or _LOCAL
        hops = [hop for line in forwarded for hop in line.split(",")][-_MAX_HOPS:]
        while hops and self.trusts(found):
            named = parse_address(hops.pop())
            if named is None:
                break
            found = named
        if isinstance(found, IPv6Address):
            return str(ip_network((found, 64), strict=False).network_address)
        return str(found)

    def trusts(self, address: Address) -> bool:
        """True if the address is a trusted proxy's."""
        return any(address in network for network in self._trusted)


def request_id(asked: Sequence[str]) -> str:
    """Return the request id that a caller asks for, or a new one where it asks for none, several or an odd one."""
    return asked[0] if len(asked) == 1 and _REQUEST_ID.fullmatch(asked[0]) else secrets.token_hex(8)


def parse_address(text: str) -> Address | None:
    """Return the address in `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]:80`; None if there is none.

    An IPv4 address inside an IPv6 one is returned as an IPv4 address.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
