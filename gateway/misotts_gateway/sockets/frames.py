"""uvicorn's WebSocket protocol, with limits on frames that the application never sees."""

from __future__ import annotations

import time
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from misotts_gateway.sockets.limits import CONTROL_BURST, CONTROL_PER_S, MAX_FRAGMENTS


class BoundedFrames(WebSocketsSansIOProtocol):
    """Closes a connection that sends too many pings and pongs, which are answered without a limit on what waits to be
    sent, or a message in too many fragments, whose bytes alone are limited."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allowed, self._counted_at = float(CONTROL_BURST), time.monotonic()

    def handle_ping(self) -> None:
        if self._may_go_on():
            super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        if self._may_go_on():
            super().handle_pong(event)

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        else:
            self._end(1009, f"a message may have {MAX_FRAGMENTS} fragments")

    def _may_go_on(self) -> bool:
        now = time.monotonic()
        self._allowed = min(self._allowed + (now - self._counted_at) * CONTROL_PER_S, CONTROL_BURST) - 1
        self._counted_at = now
        if self._allowed < 0:
            self._end(1008, f"more than {CONTROL_PER_S:g} pings a second")
        return self._allowed >= 0

    def _end(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()
