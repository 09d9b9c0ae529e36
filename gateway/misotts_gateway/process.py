"""The process: its listeners from start to drain, and what it looks after meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from misotts_gateway import memory
from misotts_gateway.access_log import AccessLog
from misotts_gateway.callers import Callers
from misotts_gateway.connections import Connections, bound_send_buffers, raise_descriptor_limit, unsent
from misotts_gateway.core import Core
from misotts_gateway.counts import Counts
from misotts_gateway.errors import Draining
from misotts_gateway.http.app import http_app
from misotts_gateway.http.server import HttpServer
from misotts_gateway.http.service import OptionError, make_service
from misotts_gateway.keys import KeyFileError, Keys
from misotts_gateway.launcher import REPORT_S, LauncherLink
from misotts_gateway.limits import CallerLimits
from misotts_gateway.listeners import ListenError, grpc_server, tls_files
from misotts_gateway.options import GatewayOptions
from misotts_gateway.probes import Probes, SmallServer
from misotts_gateway.request import model_limits
from misotts_gateway.tickets import Tickets
from misotts_gateway.traces import Traces
from misotts_gateway.triton_protocol import TritonProtocol
from misotts_gateway.upstream import Upstream

log = logging.getLogger(__name__)

DRAIN_S = 60.0
"""Time that callers get to take their chunks when a gateway without a launcher is told to stop."""
CLOSE_S = 1.0
"""Time in which connections are closed when their callers have got everything. The launcher's patience is longer."""
TICKETS_S, MEMORY_S, CONNECTIONS_S, FILES_S, UPSTREAM_S = 0.1, 0.1, 0.25, 2.0, 1.0


class GatewayError(RuntimeError):
    """The gateway cannot start, or has lost its launcher. The message is one line for the operator."""


async def run(options: GatewayOptions) -> None:
    """Serve until SIGINT, SIGTERM or the launcher's command, then drain.

    Raises:
        GatewayError: it cannot start, or its launcher has ended.
    """
    _log_to_stderr()
    try:
        gateway = Gateway(options)
        await gateway.run()
    except (ListenError, KeyFileError, OptionError) as error:
        raise GatewayError(str(error)) from None
    except OSError as error:
        raise GatewayError(f"{error.filename or 'cannot start'}: {error.strerror}") from None


class Gateway:
    """One gateway: its parts, put together."""

    def __init__(self, options: GatewayOptions) -> None:
        """Raises KeyFileError, OptionError, ListenError or OSError if the options cannot be used."""
        self.options = options
        self.counts = Counts()
        self.access = AccessLog(options.access_log)
        self.keys = Keys(options.api_keys)
        self.callers = Callers(options.trusted_proxies, self.keys)
        self.upstream = Upstream(options.upstream)
        self.tickets = Tickets(self.upstream.run)
        self.traces = Traces(self.upstream.run, self.counts.malformed.inc) if options.traces else None
        limits = CallerLimits(options.streams_per_address)
        self.core = Core(self.upstream, self.tickets, limits, self.counts, self.access, self.traces)
        self.protocol = TritonProtocol(self.core, self.callers, lambda: self.is_ready)
        self.service = make_service(options, self.core, self.callers)
        self.http = HttpServer(http_app(self.service), tls_files(options))
        self.link = LauncherLink(self.counts.malformed.inc, self.core.admission)
        self._ports = (options.grpc_port, options.http_port)
        self._unsent = 0
        """Once a drain has no more streams, the number of connections with bytes that are not sent."""
        self._upstream_ready = False
        self.counts.slots.set_function(lambda: self.core.admission.figures.slots)
        self.counts.free_slots.set_function(lambda: self.core.admission.figures.free_slots)
        self.counts.waiting.set_function(lambda: self.core.admission.figures.waiting)
        self._stop = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """True if requests are accepted."""
        up = bool(self.link.state.get("ready")) if self.options.launcher else self._upstream_ready
        return up and not self.core.draining

    async def run(self) -> None:
        """See `misotts_gateway.process.run`."""
        options = self.options
        connections = Connections(self._ports, raise_descriptor_limit(), self.callers.trusts)
        if options.launcher:
            await self.link.connect(options.launcher)
            self.link.send(state="loading", detail="listeners")
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        if self.traces:
            self.traces.listen()
        server = grpc_server(options, self.protocol)
        probes = SmallServer(Probes(self._state, self._metrics).answer, self._refused)
        await probes.start(options.host, options.ready_port)
        await self.http.start(options.host, options.http_port)
        await server.start()
        for port in self._ports:
            bound_send_buffers(port)
        if not self.keys.required:
            log.warning("no --api-keys: any caller is served")
        gc.freeze()  # full collections of what lives as long as the process would hold the event loop for 20 ms
        self.link.send(state="ready", detail="")
        watching = [asyncio.create_task(task) for task in self._watches(connections)]
        try:
            await self._until_stopped()
            await self._drain(server)
            if self.link.lost.is_set():
                raise GatewayError("the launcher has ended or is silent")
        finally:
            for task in watching:
                task.cancel()
            probes.close()
            await self.http.stop(0)
            await server.stop(None)
            await self.upstream.close()
            if self.traces:
                await self.traces.close()
            self.link.close()

    def _watches(self, connections: Connections) -> list[Any]:
        def sweep() -> None:
            count, closed = connections.sweep()
            self.counts.connections.set(count)
            if closed:
                self.counts.refused.labels("connections_per_address").inc(closed)

        watches = [
            _every(MEMORY_S, self._watch_memory),
            _every(TICKETS_S, self.tickets.flush),
            _every(CONNECTIONS_S, sweep),
            _every(FILES_S, self.keys.reread),
            _every(FILES_S, self.access.reopen),
            _every(FILES_S, self.http.reread_certificate),
            _every(REPORT_S, self.http.close_silent),
            _every(REPORT_S, self._report),
        ]
        if not self.options.launcher:
            watches.append(_every(UPSTREAM_S, self._watch_upstream))
        return watches

    async def _until_stopped(self) -> None:
        waits = [asyncio.create_task(each.wait()) for each in (self._stop, self.link.draining, self.link.lost)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    async def _drain(self, server: grpc.aio.Server) -> None:
        """Refuse new requests; return when every caller has taken its last chunk and the kernel has sent it."""
        self.core.draining = True
        self._stop.clear()  # a second signal stops at once
        limit = asyncio.get_running_loop().time() + (float("inf") if self.options.launcher else DRAIN_S)
        if not await self._all_is_sent(limit):
            return
        for call in self.protocol.calls:  # which have nothing under way, and could be open for long
            call.end(Draining())
        await asyncio.gather(server.stop(CLOSE_S), self.http.stop(CLOSE_S))
        await self._all_is_sent(limit)

    async def _all_is_sent(self, limit: float) -> bool:
        """Wait until no request is served and the kernel has sent everything; return False at the time `limit`, and at
        once when this process is told to stop or has lost its launcher."""
        while asyncio.get_running_loop().time() < limit and not (self._stop.is_set() or self.link.lost.is_set()):
            serving = self.core.streams or self.protocol.busy or self.service.busy
            self._unsent = 0 if serving else self.http.unsent or unsent(self._ports)
            if not (serving or self._unsent):
                return True
            await asyncio.sleep(0.02)
        return False

    def _state(self) -> tuple[bool, dict[str, Any]]:
        """See `Probes`."""
        if self.options.launcher:
            return self.is_ready, {
                name: value for name, value in self.link.state.items() if name not in ("ready", "model")
            }
        phase = "draining" if self.core.draining else "serving" if self._upstream_ready else "waiting for the upstream"
        return self.is_ready, {"phase": phase, "streams": self.core.streams}

    async def _metrics(self) -> bytes:
        run = self.upstream.run
        triton = await asyncio.to_thread(_fetch_metrics, run / "metrics") if run else b""
        return triton + self.counts.text()

    def _watch_memory(self) -> None:
        held = memory.resident_bytes()
        self.counts.memory.set(held)
        self.counts.streams.set(self.core.streams)
        if held > self.options.memory_limit:
            if ended := memory.end_incomplete(self.protocol.calls):
                self.counts.refused.labels("memory").inc(ended)
            memory.give_back()

    def _report(self) -> None:
        self.core.end_stalled()
        self.core.model = model_limits(self.link.state.get("model")) or self.core.model
        self.link.check()
        self.link.send(report={"streams": max(self.core.streams, self.service.busy, self._unsent)})

    async def _watch_upstream(self) -> None:
        ready = await self.upstream.ready()
        if ready and not self._upstream_ready:  # it may serve another model than before
            self.core.model = await self.upstream.model_limits() or self.core.model
        self._upstream_ready = ready

    def _refused(self, reason: str) -> None:
        self.counts.refused.labels(reason).inc()


async def _every(seconds: float, action: Callable[[], Awaitable[None] | None]) -> None:
    """Call `action` again and again. Its failure is logged, and does not end it."""
    while True:
        try:
            result = action()
            if result is not None:
                await result
        except Exception:
            log.exception("a watch failed")
        await asyncio.sleep(seconds)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=2)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _fetch_metrics(path: Path) -> bytes:
    """Return Triton's metrics; nothing if it does not answer."""
    with contextlib.closing(_UnixConnection(path)) as connection:
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return b""


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="misotts: gateway    %(message)s")
    logging.getLogger("grpc").setLevel(logging.ERROR)
