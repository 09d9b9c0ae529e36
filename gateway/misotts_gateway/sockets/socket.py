"""The life of a WebSocket, from its upgrade to its close."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from misotts_client.errors import FieldError, MisoError, Unavailable
from misotts_gateway.callers import Caller
from misotts_gateway.http.request import Refuse, identify, key_subprotocol, session_name
from misotts_gateway.http.service import ForbiddenOrigin, Service
from misotts_gateway.json_fields import read_json
from misotts_gateway.sockets import limits
from misotts_gateway.sockets.conversation import Closing, Conversation
from misotts_gateway.turn import in_thread

log = logging.getLogger(__name__)

NORMAL, POLICY, FAILED, TRY_LATER = 1000, 1008, 1011, 1013
"""Codes with which a socket is closed."""
SHORT_MESSAGE = 4_096
"""Characters up to which a message is read where it came in: a thread would cost more."""
MAX_REASON = 120
"""Bytes of a close frame's reason: the protocol allows 123."""


def closing_for(error: MisoError) -> Closing:
    """Return how a socket is closed that cannot go on after `error`."""
    code = POLICY if isinstance(error, FieldError) else TRY_LATER if isinstance(error, Unavailable) else FAILED
    return Closing(code, error.message)


class SocketProtocol(ABC):
    """What is said on one WebSocket; a protocol is a subclass, and is made when the upgrade is asked for.

    Attributes:
        idle_s: a silent socket is closed after this time.
        conversation, send: are there from `opened` on.
    """

    idle_s = limits.IDLE_S

    def __init__(self, service: Service, caller: Caller, websocket: WebSocket) -> None:
        """Raises MisoError if the upgrade asks for something that is not there."""
        self.service, self.caller = service, caller
        self.conversation = Conversation(service, caller, session_name(websocket))
        self._websocket = websocket

    async def send(self, content: Mapping[str, Any] | bytes) -> None:
        """Send a message: an object as JSON, bytes as they are. It returns when the caller has taken most of it.

        Raises:
            WebSocketDisconnect: the caller has left.
        """
        if isinstance(content, bytes):
            await self._websocket.send_bytes(content)
        else:
            # In ASCII: an error repeats names of the caller, and UTF-8 has no lone surrogates.
            await self._websocket.send_text(json.dumps(content, separators=(",", ":")))

    async def opened(self) -> None:
        """The upgrade is done."""
        return

    @abstractmethod
    async def receive(self, content: dict[str, Any]) -> None:
        """Take a message.

        Raises:
            MisoError: it is wrong; `refuse` tells the caller.
            Closing: it ends the socket.
        """

    @abstractmethod
    async def refuse(self, error: MisoError, content: dict[str, Any]) -> None:
        """Tell the caller that a message was wrong; `content` is empty if it could not be read."""


Open = Callable[[Service, Caller, WebSocket], SocketProtocol]


def socket_route(path: str, service: Service, open: Open, refuse: Refuse) -> WebSocketRoute:
    """Return the route of a WebSocket.

    Args:
        refuse: returns the response to an upgrade that is refused; None for a fault of ours.
    """

    async def endpoint(websocket: WebSocket) -> None:
        try:
            caller = identify(service.callers, websocket)
            service.check_origin(websocket)
            protocol = open(service, caller, websocket)
        except Exception as error:
            response = Response(str(error), 403) if isinstance(error, ForbiddenOrigin) else refuse(error)
            if response is None:
                log.exception("the upgrade of %s failed", path)
                response = Response("the gateway failed", 500)
            await websocket.send_denial_response(response)
            return
        await _Life(protocol, websocket).run()

    return WebSocketRoute(path, endpoint)


class _Life:
    """Reads messages and lets the conversation speak, until one of the two ends, or neither has anything to do."""

    def __init__(self, protocol: SocketProtocol, websocket: WebSocket) -> None:
        self._protocol, self._websocket = protocol, websocket
        self._allowed = float(limits.BURST)
        self._counted_at = self._came_at = time.monotonic()

    async def run(self) -> None:
        await self._websocket.accept(key_subprotocol(self._websocket))
        parts = (self._read(), self._protocol.conversation.run(), self._watch())
        tasks = [asyncio.create_task(each) for each in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await self._close(outcomes)

    async def _read(self) -> None:
        """Take messages until the caller leaves."""
        await self._protocol.opened()
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._came_at = time.monotonic()
            await self._throttle()
            content: dict[str, Any] = {}
            try:
                raw = message["bytes"] if message.get("text") is None else message["text"]
                threads = self._protocol.service.threads if len(raw) > SHORT_MESSAGE else None
                content = await in_thread(threads, partial(read_json, raw, "the message"))
                await self._protocol.receive(content)
            except MisoError as error:
                await self._protocol.refuse(error, content)

    async def _watch(self) -> None:
        """Raises Closing when the caller has said and heard nothing for too long."""
        conversation, idle_s = self._protocol.conversation, self._protocol.idle_s
        while True:
            quiet_s = time.monotonic() - max(self._came_at, conversation.quiet_since)
            if quiet_s >= idle_s and not conversation.busy:
                raise Closing(NORMAL, f"the socket was idle for {idle_s:g} s")
            await asyncio.sleep(idle_s - quiet_s if quiet_s < idle_s else idle_s)

    async def _throttle(self) -> None:
        now = time.monotonic()
        self._allowed += (now - self._counted_at) * limits.MESSAGES_PER_S
        self._allowed, self._counted_at = min(self._allowed, limits.BURST) - 1, now
        if self._allowed < 0:
            await asyncio.sleep(-self._allowed / limits.MESSAGES_PER_S)

    async def _close(self, outcomes: list[Any]) -> None:
        """Close as the first task that ended by itself says; do nothing if the caller has left."""
        closing = next((each for each in outcomes if isinstance(each, Closing)), None)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, Closing | WebSocketDisconnect):
                log.error("a WebSocket failed", exc_info=outcome)
                closing = Closing(FAILED, "the gateway failed")
        if closing is None:
            return
        reason = closing.reason.encode()[:MAX_REASON].decode(errors="ignore")
        with suppress(asyncio.TimeoutError, WebSocketDisconnect, RuntimeError):
            await asyncio.wait_for(self._websocket.close(closing.code, reason), limits.CLOSE_S)
