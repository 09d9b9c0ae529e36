"""The table of metrics: its page of the docs, and its publication."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from misotts.serve.settings import STAGES
from misotts.serve.stage.metrics import METRICS, StageMetrics, page

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


class Family:
    """Triton's `MetricFamily` and its one metric; `published` holds all families by name."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    published: dict[str, Any]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.kind, self.value, self.calls = kind, 0.0, 0
        self.observed: list[float] = []
        self.published[name] = self

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Any:  # noqa: N802
        assert (self.kind == self.HISTOGRAM) == (buckets is not None)
        return self

    def increment(self, value: float) -> None:
        self.value += value
        self.calls += 1

    def set(self, value: float) -> None:
        self.value = value
        self.calls += 1

    def observe(self, value: float) -> None:
        self.observed.append(value)


def test_docs_metrics_is_the_page_of_the_table() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), "`make docs` renews it"


def test_every_stage_has_metrics_and_every_description_is_a_sentence() -> None:
    assert tuple(METRICS) == STAGES
    for metrics in METRICS.values():
        assert len({metric.name for metric in metrics}) == len(metrics)
        for metric in metrics:
            assert metric.description.endswith(".")


def test_counters_gauges_and_histograms_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Family, "published", {}, raising=False)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace(MetricFamily=Family))
    metrics = StageMetrics("generate")
    found = Family.published
    assert len(found) == len(METRICS["generate"])
    values: dict[str, Any] = {metric.name: [] if metric.kind == "histogram" else 0 for metric in METRICS["generate"]}
    metrics.publish({**values, "steps_total": 3, "running": 2, "step_seconds": [0.1, 0.2]})
    metrics.publish({**values, "steps_total": 5, "running": 1, "step_seconds": [0.3]})
    assert found["misotts_generate_steps_total"].value == 5
    assert found["misotts_generate_running"].value == 1
    assert found["misotts_generate_step_seconds"].observed == [0.1, 0.2, 0.3]
    assert sum(family.calls for family in found.values()) == 4, "what has not changed is not sent"
