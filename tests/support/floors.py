"""Runs quick tests with the lowest releases that the distributions state: python -m tests.support.floors [newest]

Client and gateway are installed whole, in an environment of their own. The library's direct dependencies lie in a
folder before those of .venv: PyTorch and the other libraries of GPUs are not tried, because one set takes gigabytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
OWN = {"misotts-client", "misotts-gateway"}
NOT_TRIED = {"torch"}
PIP = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
PYTEST = ["-m", "pytest", "-q", "-m", "not server and not long and not slow", "-p", "no:cacheprovider"]
TOOLS = ["pytest", "pytest-timeout", "hypothesis", "msgspec", "psutil"]

CLIENT = [
    "tests/client/test_client_say.py",
    "tests/client/test_client_stream.py",
    "tests/client/test_client_request.py",
]
GATEWAY = [f"tests/gateway/test_{name}.py" for name in ("core", "request", "relay", "callers", "text", "speech")]
LIBRARY = [
    "tests/cli/test_strangers_audio.py",
    "tests/cli/test_voices.py",
    "tests/cli/test_cli.py",
    "tests/prompt/test_voice_files.py",
    "tests/prompt/test_tokenizer.py",
    "tests/test_demo.py",
]


def stated(distribution: str) -> list[tuple[str, str]]:
    """Return the name and the lowest release of every direct dependency; of client and gateway also those of extras."""
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}) if distribution != "." else {}
    words = [*project["dependencies"], *chain(*extras.values())]
    found = [re.match(r"([\w.-]+(?:\[.*\])?)>=([\w.]+)", each) for each in words]
    return [(match[1], match[2]) for match in found if match and match[1] not in OWN | NOT_TRIED]


def run(python: str | Path, arguments: list[str], *path: Path) -> int:
    """Run Python with our sources and `path` before everything else; return its status."""
    places = [*path, ROOT, ROOT / "client", ROOT / "gateway"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    return subprocess.run([python, *arguments], cwd=ROOT, env=environment).returncode


def alone(folder: Path, name: str, releases: list[str], tests: list[str]) -> int:
    """Test a distribution in an environment of its own, without the tests' common fixtures, which need PyTorch."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, *PIP, *releases, *TOOLS], check=True)
    return run(python, [*PYTEST, "--noconftest", "-p", f"tests.{name}.conftest", *tests])


def beside(folder: Path, releases: list[str], tests: list[str]) -> int:
    """Test with `releases` before what .venv has."""
    subprocess.run([sys.executable, *PIP, "--no-deps", "--target", folder, *releases], check=True)
    return run(sys.executable, [*PYTEST, *tests], folder)


def main() -> None:
    newest = sys.argv[1:] == ["newest"]
    out = ROOT / "out" / ("newest" if newest else "floors")
    shutil.rmtree(out, ignore_errors=True)

    def releases(*distributions: str) -> list[str]:
        found = {name: lowest for each in distributions for name, lowest in stated(each)}
        wanted = [name if newest else f"{name}=={lowest}" for name, lowest in found.items()]
        print(" ".join(wanted), flush=True)
        return wanted

    statuses = {
        "client": alone(out / "client", "client", releases("client"), CLIENT),
        # The gateway's bounds are the higher ones where it shares a dependency with the client.
        "gateway": alone(out / "gateway", "gateway", releases("client", "gateway"), GATEWAY),
        "library": beside(out / "library", releases("."), LIBRARY),
    }
    if failed := [name for name, status in statuses.items() if status]:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
