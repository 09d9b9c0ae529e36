"""OpenTelemetry's spans in the gateway alone: parents, spans that come in any order, and what makes no sense."""

import asyncio
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from misotts_gateway.callers import Caller
from misotts_gateway.http.service import OptionError
from misotts_gateway.spans import SpanSender, socket_path
from misotts_gateway.traces import Traces

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_spans_of_stages_find_their_utterance() -> None:
    exporter = InMemorySpanExporter()

    malformed: list[None] = []

    async def run(folder: Path) -> None:
        traces = Traces(folder, lambda: malformed.append(None), exporter)
        traces.listen()
        named = traces.begin(7, Caller("127.0.0.1", "one", traceparent=f"00-{TRACE}-{PARENT}-01"), 6)
        alone = traces.begin(8, Caller("127.0.0.1", "two", traceparent="nonsense"), 6)
        sender = SpanSender(folder)
        sender.send("prompt", 1.0, 2.0, ticket=7)
        sender.send("waiting", 2.0, 3.0, ticket=7, stream=70)
        sender.send("decode", 3.0, 4.0, stream=70)
        sender.send("decode", 3.0, 4.0, stream=71)  # of an utterance that is not known
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            for datagram in (b"", b"x" * 33, b"\xff" * 33, b"x" * 60_000):
                stranger.sendto(datagram, socket_path(folder))
        await asyncio.sleep(0.1)
        named.end()
        alone.end()
        await traces.close()

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
    found = {(span.name, span.context.trace_id): span for span in exporter.get_finished_spans()}
    utterance = found["utterance", int(TRACE, 16)]
    assert utterance.parent is not None
    assert utterance.parent.span_id == int(PARENT, 16)
    of_it = [found[name, int(TRACE, 16)] for name in ("prompt", "waiting", "decode")]
    assert {span.parent.span_id for span in of_it if span.parent} == {utterance.context.span_id}
    lengths = [(span.end_time or 0) - (span.start_time or 0) for span in of_it]
    assert lengths == pytest.approx([10**9] * 3, rel=1e-6)
    assert len(found) == 5
    assert len(malformed) == 4


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(OptionError, match=r"--traces needs OpenTelemetry .*pip install"):
        Traces(None, lambda: None)
