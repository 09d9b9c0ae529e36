"""`misotts serve` with the stand-ins that an environment variable names, with commas between: see `stand_ins.py`.

Everything else is the server's own: the launcher, tritonserver, the ensemble, the gateway, the stages around the
stand-ins.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from misotts.cli.main import main
from misotts.serve import tritonserver

VARIABLE = "MISOTTS_BENCHMARK_STAND_INS"
STAGE_OF = {"network": "watermark"}
"""The stage of a stand-in, where that has another name."""
CHECKOUT = Path(__file__).resolve().parents[2]


def write_repository(folder: Path, stand_ins: list[str]) -> Path:
    """Copy the model repository to `folder`, with `stand_ins`; return the copy."""
    repository = folder / "model_repository"
    shutil.copytree(CHECKOUT / "model_repository", repository)
    for name in stand_ins:
        stage = STAGE_OF.get(name, name)
        line = f"from benchmarks.host_cost.stand_ins import {name.capitalize()}Stage as TritonPythonModel\n"
        text = f"import sys\n\nsys.path.insert(0, {str(CHECKOUT)!r})\n{line}"
        (repository / stage / "1" / "model.py").write_text(text, encoding="utf-8")
    return repository


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), os.environ[VARIABLE].split(","))
        tritonserver._repository = lambda: repository
        main()
