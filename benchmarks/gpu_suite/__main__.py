"""Measure this machine's GPU, or rehearse the same code small on its CPU.

python -m benchmarks.gpu_suite [--small] [--seconds 420] [--out DIR] [--last FILE] [--resume] [--only SECTION ...]
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import re
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# A process that has initialised CUDA cannot fork children that use it, so torch asks NVML whether there is a GPU.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warns of every fork otherwise

from benchmarks.costs.sizes import FULL, SMALL
from benchmarks.gpu_suite.costs import cost_table
from benchmarks.gpu_suite.suite import Suite, gpu, in_another_process, parts, preload
from benchmarks.gpu_suite.table import markdown
from benchmarks.record import RESULTS, record, write

SECONDS = 420
START_S = 10
"""Seconds for the imports and the end."""
LAST = Path("out/gpu-suite.json")
"""The default of `--last`."""
PACKAGES = ("torch", "transformers", "triton", "moshi", "numpy")


def main() -> int:
    """Run the suite; return 1 if a section failed or found something wrong."""
    arguments = _arguments()
    preload()
    found = in_another_process(gpu)
    small = arguments.small or found is None
    sizes, device = (SMALL if small else FULL), ("cuda" if found else "cpu")
    earlier = _sections(arguments.last, found, sizes.model) if arguments.resume else {}
    suite = Suite(device, sizes, arguments.seconds - START_S, earlier)
    out = arguments.out or Path(os.environ.get("OUT") or ("out" if small else RESULTS))
    name = f"{_slug(found['gpu'] if found else 'cpu')}{'-small' if small else ''}-{time.strftime('%Y-%m-%d-%H%M')}"
    chosen = [part for part in parts() if (part.name in arguments.only if arguments.only else not part.alone)]
    path = out / f"gpu-suite-{name}.json"

    def store() -> dict[str, Any]:
        result = _result(suite, found)
        for file in (arguments.last, path):
            write(file, result)
        path.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
        return result

    for section in suite.run(chosen):
        store()
        print(f"{section}: {suite.sections[section]['state']}, {suite.sections[section]['seconds']} s", flush=True)
    result = store()
    if (costs := cost_table(suite, result)) is not None:
        write(out / f"costs-{name}.json", costs)
    print(markdown(result))
    for failure in suite.failures:
        print(f"WRONG  {failure}")
    print(path)
    return 1 if suite.failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="toy shapes; the default without a GPU")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of the whole suite")
    parser.add_argument("--out", type=Path, help="default: $OUT, or benchmarks/results; small: out")
    parser.add_argument("--last", type=Path, default=LAST, help=f"last result, which --resume goes on from: {LAST}")
    parser.add_argument("--resume", action="store_true", help="keep the sections that the last result has as done")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in parts()], metavar="SECTION")
    return parser.parse_args()


def _sections(file: Path, found: dict[str, Any] | None, model: str) -> dict[str, Any]:
    """Return the sections of the last result, if it is of this GPU and this model."""
    with suppress(FileNotFoundError):
        last = json.loads(file.read_text(encoding="utf-8"))
        if last["machine"].get("gpu") == (found or {}).get("gpu") and last["model"] == model:
            return dict(last["sections"])
    return {}


def _result(suite: Suite, found: dict[str, Any] | None) -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    result = record({"model": suite.sizes.model, "versions": versions, "failures": suite.failures})
    libpython = f"python{sys.version_info.major}.{sys.version_info.minor}"
    result["machine"] |= {"libpython": ctypes.util.find_library(libpython), **(found or {})}
    return {**result, "sections": suite.sections}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
