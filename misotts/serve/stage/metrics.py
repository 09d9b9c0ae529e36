"""A stage's numbers on Triton's metrics port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

BUCKETS_S = [0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.35, 0.6, 1.0, 2.0, 5.0, 10.0]
"""Upper bounds in seconds. 0.08 is a frame: a step above it makes every running stream fall behind."""


class StageMetrics:
    """Counters, gauges and histograms named `misotts_<stage>_<name>`, made when they are first published."""

    def __init__(self, stage: str) -> None:
        self._prefix = f"misotts_{stage}_"
        self._families: list[Any] = []  # a family must outlive its metrics
        self._metrics: dict[str, Any] = {}
        self._published: dict[str, float] = {}

    def publish(
        self,
        counters: Mapping[str, float],
        gauges: Mapping[str, float],
        observations: Mapping[str, Sequence[float]],
    ) -> None:
        """`counters`: totals since start; `gauges`: what stands now; `observations`: seconds, measured since the last
        call."""
        for name, total in counters.items():
            self._metric(name, pb_utils.MetricFamily.COUNTER).increment(total - self._published.get(name, 0.0))
            self._published[name] = total
        for name, value in gauges.items():
            self._metric(name, pb_utils.MetricFamily.GAUGE).set(value)
        for name, values in observations.items():
            histogram = self._metric(name, pb_utils.MetricFamily.HISTOGRAM, buckets=BUCKETS_S)
            for value in values:
                histogram.observe(value)

    def _metric(self, name: str, kind: Any, **options: Any) -> Any:
        if name not in self._metrics:
            full = self._prefix + name
            self._families.append(pb_utils.MetricFamily(name=full, description=full.replace("_", " "), kind=kind))
            self._metrics[name] = self._families[-1].Metric(labels={}, **options)
        return self._metrics[name]
