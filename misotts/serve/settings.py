"""What the launcher tells the stages, through a file that only they can read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex

from misotts.engines.table import EngineChoice

RUN_ENV = "MISOTTS_RUN"
"""Environment variable that names the run folder: settings, sockets, log."""

STAGES = ("prompt", "generate", "decode", "watermark")


@dataclass(frozen=True)
class StageSettings:
    """Settings of one start of the server."""

    run: str
    """The run folder."""
    model: str
    voices: str | None
    max_streams: int
    kv_memory: int | None
    """Bytes of the KV pool; None is the stage's choice."""
    engines: EngineChoice
    watermark_key: str
    """Hexadecimal."""
    door: str = field(default_factory=lambda: f"DOOR_{token_hex(16)}")
    """Name of the input by which `prompt` knows that it was reached through the ensemble. Only the ensemble's
    configuration holds it."""
    secret: str = field(default_factory=lambda: token_hex(16))
    """What a stage hands to the next one, to show that it is a stage."""

    @property
    def model_folder(self) -> Path:
        return Path(self.model)

    @property
    def voices_folder(self) -> Path | None:
        return Path(self.voices) if self.voices else None

    @property
    def control_socket(self) -> str:
        """Where stages report to the launcher."""
        return f"{self.run}/control"

    @property
    def acknowledge_socket(self) -> str:
        """Where `watermark` tells `generate` that a chunk has reached the end of the road."""
        return f"{self.run}/acknowledge"

    def save(self) -> None:
        path = Path(self.run) / "settings.json"
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)

    @classmethod
    def load(cls) -> StageSettings:
        """Read the settings of the launcher that started this process.

        Raises:
            RuntimeError: no launcher did.
        """
        run = os.environ.get(RUN_ENV)
        if not run:
            raise RuntimeError("the stages are started by `misotts serve`, not by tritonserver alone")
        fields = json.loads((Path(run) / "settings.json").read_text(encoding="utf-8"))
        return cls(**{**fields, "engines": EngineChoice(**fields["engines"])})
