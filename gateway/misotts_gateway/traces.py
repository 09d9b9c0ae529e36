"""OpenTelemetry: a span for each utterance, joined to its caller's, with a child for what each stage did.

OpenTelemetry's own environment variables say where the spans go and which ones: OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from misotts_gateway import spans
from misotts_gateway.callers import Caller
from misotts_gateway.http.service import OptionError

KEPT = 4_096
"""Utterances of which the spans of stages may still come."""
READ_BYTES = 64


class Traces:
    """Makes the spans of one gateway and exports them in a thread of their own.

    Args:
        run: the run folder, in which the stages' spans arrive; None for a gateway on another machine.
        malformed: is called for each datagram that makes no sense.
        exporter: for tests; None is OTLP over HTTP.
    """

    def __init__(self, run: Path | None, malformed: Callable[[], object], exporter: Any = None) -> None:
        """Raises OptionError if OpenTelemetry is not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import set_span_in_context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            words = f"--traces needs OpenTelemetry ({error.name}): pip install 'misotts-gateway[traces]'"
            raise OptionError(words) from None
        name = os.environ.get("OTEL_SERVICE_NAME", "misotts")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("misotts")
        self._extract, self._within = TraceContextTextMapPropagator().extract, set_span_in_context
        self._utterances: dict[int, Any] = {}
        self._tickets: dict[int, int] = {}
        self._to_wall = time.time() - time.monotonic()
        self._path = spans.socket_path(run) if run else ""
        self._socket: socket.socket | None = None
        self._malformed = malformed

    def listen(self) -> None:
        """Receive the stages' spans in the event loop that runs. Raises OSError if the socket cannot be made."""
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.bind(self._path)
            asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def begin(self, ticket: int, caller: Caller, characters: int) -> Any:
        """Return the span of an utterance that begins now."""
        parent = self._extract({"traceparent": caller.traceparent})
        attributes: dict[str, Any] = {"misotts.request_id": caller.request_id, "misotts.characters": characters}
        span = self._tracer.start_span("utterance", context=parent, attributes=attributes)
        _keep(self._utterances, ticket, span)
        return span

    async def close(self) -> None:
        """Receive no more, and export what is left, which takes at most the half minute that OpenTelemetry allows."""
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        await asyncio.to_thread(self._provider.shutdown)

    def _receive(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                span = spans.unpack(self._socket.recv(READ_BYTES))
                if span is None:
                    self._malformed()
                else:
                    self._add(span)

    def _add(self, span: spans.Span) -> None:
        if span.ticket and span.stream:
            _keep(self._tickets, span.stream, span.ticket)
        parent = self._utterances.get(span.ticket or self._tickets.get(span.stream, 0))
        if parent is not None:
            child = self._tracer.start_span(span.name, self._within(parent), start_time=self._wall_ns(span.start))
            child.end(self._wall_ns(span.end))

    def _wall_ns(self, seconds: float) -> int:
        return int((self._to_wall + seconds) * 1e9)


def _keep(known: dict[int, Any], key: int, value: Any) -> None:
    known[key] = value
    if len(known) > KEPT:
        del known[next(iter(known))]
