"""HTML pages that need nothing else: a template of this folder, and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.load import report


def render(path: Path, template: str, **values: Any) -> Path:
    """Write the page of a template, whose path begins below `benchmarks/`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    filters = (report.figure, report.share, report.describe, report.counts, report.percentile)
    environment.filters.update({each.__name__: each for each in filters})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template(template).render(values), encoding="utf-8")
    return path
