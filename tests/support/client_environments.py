"""Makes an environment with pinned releases for each client, in `out/clients`.

    python -m tests.support.client_environments

Each file of `tests/clients/requirements/` becomes a virtual environment of its own, `package.json` a folder for Node.
What is there with the same releases stays.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "tests" / "clients"
CLIENTS = ROOT / "out" / "clients"
NODE = CLIENTS / "node"
STAMP = "pinned"


def python_of(name: str) -> Path:
    """Return the Python of a client's environment."""
    return CLIENTS / name / "bin" / "python"


def make_python(requirements: Path) -> None:
    folder, pinned = CLIENTS / requirements.stem, requirements.read_text()
    if _is_made(folder, pinned):
        return
    venv.create(folder, clear=True, with_pip=False)
    target = ["--python", str(folder / "bin" / "python")]
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    command = [sys.executable, "-m", "pip", *target, "install", *options, "--requirement", str(requirements)]
    subprocess.run(command, check=True)
    (folder / STAMP).write_text(pinned)


def make_node(package: Path) -> None:
    pinned = package.read_text()
    if _is_made(NODE, pinned):
        return
    shutil.rmtree(NODE, ignore_errors=True)
    NODE.mkdir(parents=True)
    shutil.copy(package, NODE)
    subprocess.run(["npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund"], cwd=NODE, check=True)
    (NODE / STAMP).write_text(pinned)


def _is_made(folder: Path, pinned: str) -> bool:
    stamp = folder / STAMP
    return stamp.exists() and stamp.read_text() == pinned


def main() -> None:
    with ThreadPoolExecutor(2) as threads:
        made = [threads.submit(make_python, each) for each in sorted((PINNED / "requirements").glob("*.txt"))]
        made.append(threads.submit(make_node, PINNED / "package.json"))
        for each in made:
            each.result()


if __name__ == "__main__":
    main()
