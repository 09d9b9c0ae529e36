"""What the stages cost on a machine: times in a JSON file that anyone can write, and that `misotts capacity` reads.

All times are milliseconds of wall time with nothing else running on the device. Grids are rectangular; between two
points costs are linear, below the first point they are that point's, beyond the last one they go on as between the last
two. Only a batch beyond the largest one measured is an error: nobody knows what the device does there.

    {
     "format": "misotts cost table 1",
     "name": "H100, MisoTTS 8B, bf16",     for people: machine, model, precision, engines
     "source": "measured",                 or "floor model": see floor.py; shown wherever a figure from it is shown
     "date": "2026-11-23T02:00:00+00:00",  date, command, machine: what benchmarks.record.record() puts there
     "command": "python -m ...",
     "machine": {...},
     "step": {                             one step of generate in which every row draws a frame (embedding, backbone,
      "batch": [1, 4, 16, 64, 256],        depth, draws, the host's part); each row has `context` positions cached
      "context": [64, 512, 1024],
      "ms": [[...], ...]},                 [batch][context]
     "prefill": {                          a backbone pass over one piece of a prompt alone, nothing drawn
      "positions": [1, 64, 256, 512],
      "ms": [...]},
     "decode": {                           one call of Mimi's decoder: `rows` streams, `frames` frames of each
      "rows": [1, 8, 64],
      "frames": [1, 2, 4, 8],
      "ms": [[...], ...]},                 [rows][frames]
     "watermark": {                        one call of the watermarker, the same
      "rows": [1, 8, 64],
      "frames": [1, 2, 4, 8],
      "ms": [[...], ...]},
     "prompt": {                           the prompt stage: one request without a new voice
      "ms": 1.0,
      "positions_per_char": 0.24,          of the text, by the model's tokenizer
      "fixed_positions": 6},               its beginning, its end, the speaker
     "hop_ms": 0.5,                        one message through Triton: into a stage, or out to the caller
     "send_ms": 0.3,                       what of it is its sender's time: a stage's next message waits for so long
     "network_ms": 0.0,                    one way between caller and server
     "speed_when_busy": [1.0, 0.5],        of each stage while 1, 2, ... of them work at once: one GPU shared by all is
                                           [1, 1/2, 1/3]; beyond the last it falls as 1/n
     "on_host": ["watermark"],             stages whose time is a CPU core's of their own, so that they neither slow the
                                           device down nor are slowed by it; may be left out: none
     "not_measured_here": ["hop_ms"],      keys whose values are from elsewhere or assumed; may be left out: none
     "overlaps": true,                     whether the host plans a step while the device works on the one before
     "hold_back_frames": 5,                frames that the watermark holds back before a stream's first sound
     "block_size": 32,                     of the KV pool
     "kv_blocks": 4000                     that the device's memory holds beside the weights
    }

Other keys are allowed and ignored, so that a file may hold more than this (the parts of a step, the floor beside it).
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

FORMAT = "misotts cost table 1"

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
        """Linear in both.

        Raises:
            CostError: `row` is beyond the last one measured.
        """
        if row > self.rows[-1]:
            raise CostError(f"a batch of {row:g} was asked for, measured up to {self.rows[-1]:g}")
        last = min(bisect_right(self.rows, row), len(self.rows) - 1)
        first = max(last - 1, 0)
        ends = [_between(self.columns, self.ms[each], column) for each in (first, last)]
        return _between([self.rows[first], self.rows[last]], ends, row)


def _between(points: list[float], values: list[float], at: float) -> float:
    """Linear between the points, the first value below them, the last slope (if it rises) beyond them."""
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
        """Prompt positions of a text of so many code points."""
        return self.fixed_positions + max(round(chars * self.positions_per_char), 1)


@dataclass(frozen=True)
class CostTable:
    """See the module's head for what each part means."""

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
    hold_back_frames: int
    block_size: int
    kv_blocks: int
    on_host: list[str] = field(default_factory=list)
    not_measured_here: list[str] = field(default_factory=list)
    date: str = ""
    command: str = ""
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, and whether anyone has measured it."""
        if self.source != "measured":
            return f"{self.name} (from the floor model, never measured)"
        but = f", but for {', '.join(self.not_measured_here)}" if self.not_measured_here else ""
        return f"{self.name} (measured {self.date[:10]}{but})"

    def times(self, factor: float) -> CostTable:
        """The same with all that the device does slower by a factor; the host's part stays."""

        def slower(name: str) -> Grid:
            grid: Grid = getattr(self, name)
            return grid if name in self.on_host else replace(grid, ms=[[ms * factor for ms in row] for row in grid.ms])

        return replace(
            self,
            name=f"{self.name}, times {factor:g}",
            step=slower("step"),
            prefill=Line(self.prefill.points, [ms * factor for ms in self.prefill.ms]),
            decode=slower("decode"),
            watermark=slower("watermark"),
        )

    @property
    def max_batch(self) -> int:
        """Streams that the table covers."""
        return int(min(self.step.largest_row, self.decode.largest_row, self.watermark.largest_row))

    def step_ms(self, draws: int, context: float, prefill: int) -> float:
        """One step: `draws` rows that draw a frame, with `context` positions cached on average, beside `prefill`
        positions of prompts. The weights are read once for both: prefill adds what it costs beyond one position."""
        alone = self.prefill.at(prefill) if prefill else 0.0
        if not draws:
            return alone
        return self.step.at(draws, context) + max(alone - self.prefill.ms[0], 0.0)

    def speed(self, busy: int) -> float:
        """Speed of each of `busy` stages that work at the same time; 1 is alone."""
        known = len(self.speed_when_busy)
        return self.speed_when_busy[busy - 1] if busy <= known else self.speed_when_busy[-1] * known / busy

    def to_json(self) -> dict[str, Any]:
        """As in the module's head, less date, command and machine, which `benchmarks.record` adds."""
        table = asdict(self)
        for name in ("date", "command", "machine"):
            del table[name]
        table["step"] = {"batch": self.step.rows, "context": self.step.columns, "ms": self.step.ms}
        table["prefill"] = {"positions": self.prefill.points, "ms": self.prefill.ms}
        for name in ("decode", "watermark"):
            grid: Grid = getattr(self, name)
            table[name] = {"rows": grid.rows, "frames": grid.columns, "ms": grid.ms}
        return {"format": FORMAT, **table}


def read(path: Path) -> CostTable:
    """Load a table.

    Raises:
        CostError: the file is missing, is no JSON, or a key is missing or wrong.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CostError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CostError(f"{path} is no JSON: {error}") from None
    try:
        return from_json(raw)
    except CostError as error:
        raise CostError(f"{path}: {error}") from None


def from_json(raw: Any) -> CostTable:
    """Build a table from what `to_json` makes.

    Raises:
        CostError: a key is missing or wrong.
    """
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise CostError(f"format: must be {FORMAT!r}")
    if raw.get("source") not in ("measured", "floor model"):
        raise CostError("source: must be 'measured' or 'floor model'")
    plain = ("hop_ms", "send_ms", "network_ms", "speed_when_busy", "overlaps", "hold_back_frames", "block_size")
    speeds = _get(raw, "speed_when_busy")
    if not speeds or speeds[0] != 1 or any(not 0 < later <= earlier for earlier, later in pairwise(speeds)):
        raise CostError("speed_when_busy: must begin with 1 and not rise")
    return CostTable(
        name=str(_get(raw, "name")),
        source=raw["source"],
        step=_part(raw, "step", lambda part: Grid(part["batch"], part["context"], part["ms"])),
        prefill=_part(raw, "prefill", lambda part: Line(part["positions"], part["ms"])),
        decode=_part(raw, "decode", lambda part: Grid(part["rows"], part["frames"], part["ms"])),
        watermark=_part(raw, "watermark", lambda part: Grid(part["rows"], part["frames"], part["ms"])),
        prompt=_part(raw, "prompt", lambda part: PromptCost(**part)),
        **{name: _get(raw, name) for name in (*plain, "kv_blocks")},
        **{name: raw[name] for name in ("on_host", "not_measured_here", "date", "command", "machine") if name in raw},
    )


def _get(raw: dict[str, Any], key: str) -> Any:
    if key not in raw:
        raise CostError(f"{key}: is missing")
    return raw[key]


def _part(raw: dict[str, Any], key: str, build: Any) -> Any:
    part = _get(raw, key)
    try:
        return build(part)
    except KeyError as error:
        raise CostError(f"{key}: {error.args[0]} is missing") from None
    except (TypeError, CostError) as error:
        raise CostError(f"{key}: {error}") from None
