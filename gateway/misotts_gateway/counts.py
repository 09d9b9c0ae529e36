"""The gateway's metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

disable_created_metrics()  # type: ignore[no-untyped-call]

PREFIX = "misotts_gateway"
BUCKETS_S = (0.02, 0.04, 0.06, 0.08, 0.12, 0.2, 0.35, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0)


class Counts:
    """The metrics of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.refused = self._counter("refused", "Number of refusals by the gateway itself.", "reason")
        self.requests = self._counter("requests", "Number of requests that have ended.", "tenant", "outcome")
        self.characters = self._counter("characters", "Code points of the texts accepted.", "tenant")
        self.audio = self._counter("audio_seconds", "Seconds of audio that callers have taken.", "tenant")
        self.http = self._counter("http_requests", "Number of HTTP requests answered.", "route", "status")
        self.malformed = self._counter(
            "malformed", "Number of messages of the launcher and the stages that made no sense."
        )
        self.streams = self._gauge("streams", "Number of utterances that callers have not taken to their end.")
        self.connections = self._gauge("connections", "Number of connections to the gRPC and HTTP ports.")
        self.slots = self._gauge("slots", "Number of slots of generate; 0 before another gateway.")
        self.free_slots = self._gauge("free_slots", "Number of slots of generate that no utterance holds.")
        self.waiting = self._gauge("waiting", "Number of utterances in the queue of generate.")
        self.memory = self._gauge("resident_bytes", "Resident memory of the gateway's process.")
        self.first_audio = self._histogram("first_audio_seconds", "Time from a request to its first audio.")
        self.first_audible = self._histogram(
            "first_audible_seconds", "Time from a request to its first audible sample as a player plays it."
        )
        self.leading_silence = self._histogram(
            "leading_silence_seconds", "Audio of an utterance before its first audible sample."
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", description, registry=self.registry)

    def _histogram(self, name: str, description: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", description, buckets=BUCKETS_S, registry=self.registry)
