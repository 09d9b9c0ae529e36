"""A stage's numbers on Triton's metrics port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils


class StageMetrics:
    """Counters and gauges named `misotts_<stage>_<name>`, made when they are first published."""

    def __init__(self, stage: str) -> None:
        self._prefix = f"misotts_{stage}_"
        self._families: list[Any] = []  # a family must outlive its metrics
        self._metrics: dict[str, Any] = {}
        self._published: dict[str, float] = {}

    def publish(self, counters: Mapping[str, float], gauges: Mapping[str, float]) -> None:
        """`counters`: totals since start; `gauges`: what stands now."""
        for name, total in counters.items():
            self._metric(name, pb_utils.MetricFamily.COUNTER).increment(total - self._published.get(name, 0.0))
            self._published[name] = total
        for name, value in gauges.items():
            self._metric(name, pb_utils.MetricFamily.GAUGE).set(value)

    def _metric(self, name: str, kind: Any) -> Any:
        if name not in self._metrics:
            full = self._prefix + name
            self._families.append(pb_utils.MetricFamily(name=full, description=full.replace("_", " "), kind=kind))
            self._metrics[name] = self._families[-1].Metric(labels={})
        return self._metrics[name]
