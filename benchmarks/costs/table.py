"""The cost of the stages on a machine: times in a JSON file that anyone can write and `misotts capacity` reads.

All times are milliseconds of wall time with nothing else running on the device. Grids are rectangular. Costs are linear
between two points, constant below the first point, and go on beyond the last point as between the last two. Only a
batch larger than the largest measured one is an error, because the device may do anything there.

    {
     "format": "misotts cost table 1",
     "name": "H100, MisoTTS 8B, bf16",     for people: machine, model, precision, engines
     "source": "measured",                 or "floor model" (see gpus.py); shown with every figure made from the table
     "date": "2026-11-23T02:00:00+00:00",  date, command and machine as benchmarks.record.record() writes them
     "command": "python -m ...",
     "machine": {...},
     "step": {                             a step of generate in which every row gets a frame (embedding, backbone,
      "batch": [1, 4, 16, 64, 256],        depth decoder, sampling); each row has `context` positions cached
      "context": [64, 512, 1024],
      "ms": [[...], ...]},                 [batch][context]
     "prefill": {                          a backbone pass over one prefill chunk alone, without sampling
      "positions": [1, 64, 256, 512],
      "ms": [...]},
     "decode": {                           one call of Mimi's decoder: `rows` streams, `frames` frames of each
      "rows": [1, 8, 64],
      "frames": [1, 2, 4, 8],
      "ms": [[...], ...]},                 [rows][frames]
     "watermark": {                        one call of the watermarker, likewise
      "rows": [1, 8, 64],
      "frames": [1, 2, 4, 8],
      "ms": [[...], ...]},
     "prompt": {                           the prompt stage: one request without a new voice
      "ms": 1.0,
      "positions_per_char": 0.24,          positions of a text by the model's tokenizer
      "fixed_positions": 6},               beginning, end, speaker
     "hop_ms": 0.5,                        one message through Triton: into a stage, or out to the caller
     "send_ms": 0.3,                       the part of it that occupies the sender: its next message waits that long
     "send_out_ms": 0.6,                   the same for watermark, which sends to the gateway; default: send_ms
     "network_ms": 0.0,                    one way between caller and server
     "speed_when_busy": [1.0, 0.5],        speed of each stage while 1, 2, ... stages work at once: one GPU shared by
                                           all is [1, 1/2, 1/3]; beyond the last entry it falls as 1/n
     "on_host": ["watermark"],             stages that use a CPU core of their own and not the device; default: none
     "not_measured_here": ["hop_ms"],      keys that come from elsewhere or are assumed; default: none
     "overlaps": true,                     true if the host plans a step while the device works on the one before
     "hold_back": {                        what the watermark holds back of a stream: `misotts.hold_back.HoldBack`
      "frames": 5,
      "every": 3},
     "block_size": 32,                     positions of a KV block
     "kv_blocks": 4000                     KV blocks that fit into the device's memory beside the weights
    }

Other keys are allowed and ignored.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from misotts.hold_back import HoldBack

FORMAT = "misotts cost table 1"
AXES = {"step": ("batch", "context"), "decode": ("rows", "frames"), "watermark": ("rows", "frames")}

Source = Literal["measured", "floor model"]


class CostError(ValueError):
    """A table that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class Line:
    """Milliseconds over one quantity."""

    points: list[float]
    ms: list[float]

    def __post_init__(self) -> None:
        if len(self.points) != len(self.ms) or not self.points or sorted(set(self.points)) != list(self.points):
            raise CostError("needs rising points and one time for each")
        if not all(isinstance(value, (int, float)) and value >= 0 for value in self.ms):
            raise CostError("needs times of 0 ms or more")

    def at(self, value: float) -> float:
        return _between(self.points, self.ms, value)

    def times(self, factor: float) -> Line:
        return Line(self.points, [round(ms * factor, 4) for ms in self.ms])


@dataclass(frozen=True)
class Grid:
    """Milliseconds over two quantities."""

    rows: list[float]
    columns: list[float]
    ms: list[list[float]]
    """[rows][columns]."""

    def __post_init__(self) -> None:
        Line(self.rows, [0] * len(self.ms))
        for row in self.ms:
            Line(self.columns, row)

    @property
    def largest_row(self) -> float:
        return self.rows[-1]

    def at(self, row: float, column: float) -> float:
        """Return the time at a place, linear in both quantities.

        Raises:
            CostError: `row` is larger than the last one measured.
        """
        if row > self.rows[-1]:
            raise CostError(f"a batch of {row:g} was asked for, measured up to {self.rows[-1]:g}")
        last = min(bisect_right(self.rows, row), len(self.rows) - 1)
        first = max(last - 1, 0)
        ends = [_between(self.columns, self.ms[each], column) for each in (first, last)]
        return _between([self.rows[first], self.rows[last]], ends, row)

    def times(self, factor: float) -> Grid:
        return replace(self, ms=[[round(ms * factor, 4) for ms in row] for row in self.ms])


def _between(points: list[float], values: list[float], at: float) -> float:
    """Interpolate: linear between the points, constant below them, with the last slope (if it rises) beyond them."""
    if at <= points[0] or len(points) == 1:
        return values[0]
    last = min(bisect_right(points, at), len(points) - 1)
    low, high = points[last - 1], points[last]
    if low == high:
        return values[last]
    slope = (values[last] - values[last - 1]) / (high - low)
    if at > high:
        return values[last] + max(slope, 0.0) * (at - high)
    return values[last - 1] + slope * (at - low)


@dataclass(frozen=True)
class PromptCost:
    ms: float
    positions_per_char: float
    fixed_positions: int

    def positions(self, chars: int) -> int:
        """Return the prompt positions of a text of `chars` code points."""
        return self.fixed_positions + max(round(chars * self.positions_per_char), 1)


@dataclass(frozen=True)
class CostTable:
    """See the module's docstring for each part."""

    name: str
    source: Source
    step: Grid
    prefill: Line
    decode: Grid
    watermark: Grid
    prompt: PromptCost
    hop_ms: float
    send_ms: float
    network_ms: float
    speed_when_busy: list[float]
    overlaps: bool
    hold_back: HoldBack
    block_size: int
    kv_blocks: int
    send_out_ms: float | None = None
    on_host: list[str] = field(default_factory=list)
    not_measured_here: list[str] = field(default_factory=list)
    date: str = ""
    command: str = ""
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, and whether it was measured."""
        if self.source != "measured":
            return f"{self.name} (from the floor model, never measured)"
        but = f", but for {', '.join(self.not_measured_here)}" if self.not_measured_here else ""
        return f"{self.name} (measured {self.date[:10]}{but})"

    def times(self, generate: float, decode: float, watermark: float) -> CostTable:
        """Return the same table with each stage's times multiplied by a factor."""
        return replace(
            self,
            step=self.step.times(generate),
            prefill=self.prefill.times(generate),
            decode=self.decode.times(decode),
            watermark=self.watermark.times(watermark),
        )

    def slower_device(self, factor: float) -> CostTable:
        """Return the same table for a device that takes `factor` times as long; stages on the host stay."""
        factors = {stage: 1.0 if stage in self.on_host else factor for stage in ("generate", "decode", "watermark")}
        return replace(self.times(**factors), name=f"{self.name}, times {factor:g}")

    @property
    def max_batch(self) -> int:
        """Largest number of streams that the table covers."""
        return int(min(self.step.largest_row, self.decode.largest_row, self.watermark.largest_row))

    def step_ms(self, samples: int, context: float, prefill: int) -> float:
        """Return the time of a step: `samples` rows get a frame, with `context` positions cached on average, beside
        `prefill` positions of prompts. The weights are read once for both, so prefill adds its cost beyond one
        position."""
        alone = self.prefill.at(prefill) if prefill else 0.0
        if not samples:
            return alone
        return self.step.at(samples, context) + max(alone - self.prefill.ms[0], 0.0)

    def speed(self, busy: int) -> float:
        """Return the speed of each of `busy` stages that work at the same time; 1 is alone."""
        known = len(self.speed_when_busy)
        return self.speed_when_busy[busy - 1] if busy <= known else self.speed_when_busy[-1] * known / busy

    def to_json(self) -> dict[str, Any]:
        """Return the table as in the module's docstring, without date, command and machine."""
        table = {name: value for name, value in asdict(self).items() if name not in ("date", "command", "machine")}
        table["prefill"] = {"positions": self.prefill.points, "ms": self.prefill.ms}
        for name, (down, across) in AXES.items():
            grid: Grid = getattr(self, name)
            table[name] = {down: grid.rows, across: grid.columns, "ms": grid.ms}
        return {"format": FORMAT, **table}


def read(path: Path) -> CostTable:
    """Load a table.

    Raises:
        CostError: the file is missing, is not JSON, or a key is missing or wrong.
    """
    try:
        return from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise CostError(f"{path} cannot be read: {error.strerror}") from None
    except CostError as error:
        raise CostError(f"{path}: {error}") from None
    except ValueError as error:
        raise CostError(f"{path} is not JSON: {error}") from None


def from_json(raw: Any) -> CostTable:
    """Build a table from the result of `to_json`.

    Raises:
        CostError: a key is missing or wrong.
    """
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise CostError(f"format: must be {FORMAT!r}")
    if raw.get("source") not in ("measured", "floor model"):
        raise CostError("source: must be 'measured' or 'floor model'")
    plain = ("name", "source", "hop_ms", "send_ms", "network_ms", "speed_when_busy", "overlaps")
    optional = ("send_out_ms", "on_host", "not_measured_here", "date", "command", "machine")
    values = {name: _part(raw, name, lambda value: value) for name in (*plain, "block_size", "kv_blocks")}
    speeds = values["speed_when_busy"]
    if not speeds or speeds[0] != 1 or any(not 0 < later <= earlier for earlier, later in pairwise(speeds)):
        raise CostError("speed_when_busy: must begin with 1 and not rise")
    for name, axes in AXES.items():
        values[name] = _part(raw, name, partial(_grid, axes=axes))
    return CostTable(
        prefill=_part(raw, "prefill", lambda part: Line(part["positions"], part["ms"])),
        prompt=_part(raw, "prompt", lambda part: PromptCost(**part)),
        hold_back=_part(raw, "hold_back", lambda part: HoldBack(**part)),
        **values,
        **{name: raw[name] for name in optional if name in raw},
    )


def _grid(part: Any, axes: tuple[str, str]) -> Grid:
    return Grid(part[axes[0]], part[axes[1]], part["ms"])


def _part(raw: dict[str, Any], key: str, build: Callable[[Any], Any]) -> Any:
    if key not in raw:
        raise CostError(f"{key}: is missing")
    try:
        return build(raw[key])
    except KeyError as error:
        raise CostError(f"{key}: {error.args[0]} is missing") from None
    except (TypeError, CostError) as error:
        raise CostError(f"{key}: {error}") from None


def measured_parts(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the fields `step`, `prefill`, `decode` and `watermark` of a table from rows of times.

    The least of several times of one place counts: other work on the machine only adds to a time. A column that was not
    measured to the last row (memory or time did not suffice) is left out.

    Raises:
        CostError: a part has no times.
    """
    parts: dict[str, Any] = {}
    for name, axes in AXES.items():
        ms = _least(tables.get(name, []), *axes)
        rows = sorted({place[0] for place in ms})
        columns = [each for each in sorted({place[1] for place in ms}) if all((row, each) in ms for row in rows)]
        parts[name] = Grid(rows, columns, [[ms[row, column] for column in columns] for row in rows])
    prefill = _least(tables.get("prefill", []), "positions")
    parts["prefill"] = Line([place[0] for place in prefill], list(prefill.values()))
    return parts


def _least(rows: Sequence[Mapping[str, Any]], *axes: str) -> dict[tuple[Any, ...], float]:
    """Return the least time of every place."""
    ms: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if "ms" in row:
            place = tuple(row[axis] for axis in axes)
            ms[place] = min(row["ms"], ms.get(place, row["ms"]))
    return ms
