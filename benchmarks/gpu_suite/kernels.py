"""Sections `kernels` and `kernels, pdl`: a frame of the 8B shape with each choice of kernels (`Choices`), beside what
was predicted for it. Those with programmatic dependent launch have a section, and so a process, of their own.

The predictions are computed from this device's own rates, as docs/graph-engine.md explains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from benchmarks.costs.floors import Floors, Rates
from benchmarks.costs.generate import GenerateStage, few
from benchmarks.costs.section import Section
from benchmarks.costs.timing import memory
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.choices import Choices
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine
from misotts.engines.graph.operations import operations_on
from misotts.engines.interface import Batch
from misotts.engines.table import WeightType
from misotts.engines.transfer import own_stream

AS_SERVED = "as served"
CHOICES: dict[WeightType, dict[str, Choices]] = {
    "full": {
        AS_SERVED: Choices(),
        "pdl": Choices(pdl=True),
        "library": Choices(products="library"),
        "wide": Choices(products="wide"),
        "one pass": Choices(one_pass=True),
        "programs": Choices(programs=1056),
        "pdl, wide, one pass": Choices(pdl=True, products="wide", one_pass=True),
    },
    "int8": {
        AS_SERVED: Choices(),
        "pdl": Choices(pdl=True),
        "gemv": Choices(gemv=True),
        "wide": Choices(products="wide"),
        "pdl, gemv, wide, one pass": Choices(pdl=True, gemv=True, products="wide", one_pass=True),
    },
}

LAUNCHES = 1563
"""Kernels of a frame that wait for each other."""
LAUNCH_US, PDL_US = 2.5, 1.55
"""Time between two kernels of a graph beyond their bytes, and with programmatic dependent launch."""
LIBRARY_LAUNCHES = 4 * 280
"""Launches that cuBLAS's products need beside their own: two norms, SwiGLU and the residuals of each layer."""
ATTENTION = 0.5
"""Share of the bandwidth that paged attention reaches at short contexts."""
GEMV = 0.86
"""The same of a product of one row without tensor cores."""
COUNT_MS, SORT_MS = 0.9, 0.3
"""Ranks of 64 rows, counted by many programs or sorted by one each."""
PRODUCTS = 0.75
"""Share of the rate of a large product that products of 64 rows reach."""
LARGEST_ERROR, LEAST_EQUAL = 0.05, 0.6
"""Largest relative difference of hidden states from those of the kernels as served, and least share of equal codes of
codebook 0."""


@dataclass(frozen=True)
class Results:
    """Results of a step of each batch."""

    hidden: torch.Tensor
    """float32 [rows, width]: the backbone's, without a graph."""
    codes: torch.Tensor
    """int64 [rows, codebooks]: the graph's."""


def kernels(section: Section, pdl: bool) -> None:
    """Sends a table of frames for each number format of weights, and checks the results of every choice."""
    section = few(section)
    few_choices = None if section.device == "cuda" else 2  # elsewhere all of them run the same plain operations
    for weight_type, choices in CHOICES.items():
        stage = GenerateStage(section, "graph", weight_type)
        reference: Results | None = None
        chosen = {name: each for name, each in choices.items() if name == AS_SERVED or each.pdl == pdl}
        with own_stream():
            for name, choice in islice(chosen.items(), few_choices):
                section.hurry()
                try:
                    choose(stage, choice)
                    found = results(stage)
                except Exception as error:  # the next choice may be right
                    section.check(f"{weight_type}, {name}", ok=False, error=f"{type(error).__name__}: {error}"[:500])
                    continue
                reference = reference or found
                _check(section, f"{weight_type}, {name}", found, reference)
                for batch in section.sizes.batches:
                    _time(section, stage, weight_type, name, batch)
        section.value(f"memory, {weight_type}", memory(section.device))
        del stage


def choose(stage: GenerateStage, choices: Choices) -> None:
    """Let the engine run kernels with these choices: its graphs are captured again, its weights and pool stay."""
    engines, most = stage.engines, max(stage.sizes.batches)
    assert isinstance(engines.backbone, GraphBackbone)
    assert isinstance(engines.depth, GraphDepth)
    engines.backbone.run = engines.depth.run = operations_on(stage.section.device, choices)
    engine = GraphEngine(stage.config, engines.embedding, engines.backbone, engines.depth, most)
    stage.engines = replace(engines, engine=engine)


def results(stage: GenerateStage) -> Results:
    """Compute a step of each batch, with the same inputs each time."""
    engines, (context,) = stage.engines, stage.sizes.contexts
    hidden, codes = [], []
    for batch in stage.sizes.batches:
        step = stage.step(batch, context)
        table = engines.embedding.text_table
        rows = np.random.default_rng(batch).normal(0, 0.2, (batch, engines.embedding.width)).astype(np.float32)
        inputs = torch.from_numpy(rows).to(table.device, table.dtype)
        hidden.append(engines.backbone.forward(Batch(inputs, step.lengths, step.starts, step.blocks)).float())
        engines.engine.next_input[:batch] = inputs
        codes.append(engines.engine.step(step).clone())
    return Results(torch.cat(hidden), torch.cat(codes))


def _check(section: Section, title: str, found: Results, reference: Results) -> None:
    error = float((found.hidden - reference.hidden).norm() / reference.hidden.norm())
    equal = float((found.codes[:, 0] == reference.codes[:, 0]).float().mean())
    ok = error <= LARGEST_ERROR and equal >= LEAST_EQUAL
    section.check(title, ok, error=float(f"{error:.3g}"), first_codes_equal=round(equal, 3))


def _time(section: Section, stage: GenerateStage, weight_type: WeightType, name: str, batch: int) -> None:
    """Add the row of a choice and a batch."""
    (context,) = section.sizes.contexts
    floors = replace(stage.floors, weight_bytes=1) if weight_type == "int8" else stage.floors
    choice = CHOICES[weight_type][name]
    expected: dict[str, Any] = {}
    if section.rates is not None:
        expected["predicted_ms"] = predicted_ms(floors, section.rates, batch, context, choice)
    launch = partial(stage.engines.launch, stage.step(batch, context))
    section.time(f"frame, {weight_type}", launch, floors.step(batch, context), choice=name, batch=batch, **expected)


def predicted_ms(floors: Floors, rates: Rates, batch: int, context: int, choices: Choices) -> float:
    """Return what a frame of the 8B shape should take: bytes or operations, launches, keys and values, ranks."""
    weights, whole = floors.step(batch, 0), floors.step(batch, context)
    weights_ms, flops_ms = rates.least_ms(weights)
    kv_ms = (whole.bytes - weights.bytes) / rates.copy * 1000 / ATTENTION
    if batch == 1 and choices.gemv:
        weights_ms /= GEMV
    library = choices.products == "library" and batch >= 64 and floors.weight_bytes > 1
    launches = LAUNCHES + (LIBRARY_LAUNCHES if library else 0)
    launches_ms = launches * (PDL_US if choices.pdl else LAUNCH_US) / 1000
    ranks_ms = (SORT_MS if choices.one_pass else COUNT_MS) * batch / 64
    return round(max(weights_ms, flops_ms / PRODUCTS) + launches_ms + kv_ms + ranks_ms, 2)
