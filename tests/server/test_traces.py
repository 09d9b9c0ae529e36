"""Spans of the whole server, as a collector receives them by OTLP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from misotts.serve.local import running_server
from misotts_client import Client
from misotts_gateway.spans import NAMES
from tests.support.waiting import wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Yield the address of a collector of spans, and the spans."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()


def test_a_span_for_each_stage_joined_to_the_callers(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (url, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with running_server(demo_folder, "--traces") as server:
            metadata = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
            with Client(server.url, metadata=metadata) as client:
                client.speak("Hello.", max_audio_ms=1_600)
            wait_until(lambda: len(spans) == 1 + len(NAMES), 20)
    by_name = {span.name: span for span in spans}
    utterance = by_name["utterance"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert utterance.parent_span_id.hex() == PARENT
    told = {each.key: each.value for each in utterance.attributes}
    assert told["misotts.request_id"].string_value == "mine"
    assert told["misotts.outcome"].string_value == "length"
    assert told["misotts.audio_s"].double_value == pytest.approx(1.6)
    stages = [by_name[name] for name in NAMES]
    assert {span.parent_span_id for span in stages} == {utterance.span_id}
    for span in stages:
        assert utterance.start_time_unix_nano - 10**7 <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= utterance.end_time_unix_nano + 10**7
    starts = [span.start_time_unix_nano for span in stages]
    assert starts == sorted(starts), "in the order of the stages"
