"""Runs quick tests with the lowest releases that the distributions state: python -m tests.support.floors [newest]

Each distribution's direct dependencies lie in a folder of their own before those of .venv. PyTorch and the other
libraries of GPUs are not tried at their floors: one set takes gigabytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
NOT_TRIED = {"torch", "misotts-client", "misotts-gateway"}

TESTS = {
    "client": ["tests/client/test_client_say.py", "tests/client/test_client_stream.py"],
    "gateway": ["tests/gateway"],
    ".": [
        "tests/cli/test_strangers_audio.py",
        "tests/cli/test_voices.py",
        "tests/cli/test_cli.py",
        "tests/prompt/test_voice_files.py",
        "tests/prompt/test_tokenizer.py",
        "tests/model/test_checkpoint.py",
        "tests/test_demo.py",
    ],
}


def stated(distribution: str) -> list[tuple[str, str]]:
    """Return the name and the lowest release of every direct dependency."""
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", words) for words in project["dependencies"]]
    return [(match[1], match[2]) for match in found if match and match[1] not in NOT_TRIED]


def main() -> None:
    newest = sys.argv[1:] == ["newest"]
    statuses = {}
    for distribution, tests in TESTS.items():
        folder = ROOT / "out" / ("newest" if newest else "floors") / distribution.replace(".", "library")
        shutil.rmtree(folder, ignore_errors=True)
        wanted = [name if newest else f"{name}=={lowest}" for name, lowest in stated(distribution)]
        print(f"{distribution}: {' '.join(wanted)}", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--upgrade", "--target", folder, *wanted], check=True)
        path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "client", ROOT / "gateway")))
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", "not server and not slow", "-p", "no:cacheprovider"]
        command = [*pytest, *tests]
        statuses[distribution] = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}).returncode
    if any(statuses.values()):
        raise SystemExit(f"failed: {', '.join(name for name, status in statuses.items() if status)}")


if __name__ == "__main__":
    main()
