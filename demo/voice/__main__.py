"""Train the demo's voice.

python -m demo.voice            # every stage, in their order: two and a half hours on two idle cores
python -m demo.voice STAGE      # one of them; what it has made already is kept
python -m demo.voice --rehearse # every stage at tiny sizes: a minute
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

import torch

from demo.voice.stages import FULL, REHEARSAL, STAGES, Plan, Work, run_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=list(STAGES), help="left out: all of them")
    parser.add_argument("--work", type=Path, default=Path("out/voice"), help="folder of clips and checkpoints")
    parser.add_argument("--model", type=Path, help="model folder to write; left out: `model` in the work folder")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, to see every stage run")
    parser.add_argument("--worker", type=int, default=0, help="index of this process among --workers")
    parser.add_argument("--workers", type=int, default=1)
    for field in fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    plan = REHEARSAL if arguments.rehearse else FULL
    given = {field.name: value for field in fields(Plan) if (value := getattr(arguments, field.name)) is not None}
    model = arguments.model or arguments.work / "model"
    work = Work(arguments.work, model, replace(plan, **given), arguments.worker, arguments.workers)
    torch.set_num_threads(1)
    if arguments.stage:
        STAGES[arguments.stage](work)
        return
    options = ["--work", str(work.folder), "--model", str(model)]
    options += [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    run_all(work, options + ["--rehearse"] * arguments.rehearse)


if __name__ == "__main__":
    main()
