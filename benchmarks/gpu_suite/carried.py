"""The parts that the real server needs on a machine without Triton and network: packed into one archive here, unpacked
there.

    python -m benchmarks.gpu_suite.carried    # writes .server/parts.tar.xz, 35 MB

It has tritonserver, the Python backend, the stub for Python 3.12 and the libraries of the nvidia-pytriton wheel, but
not the libpython that only the stub for 3.13 needs; and numpy 1.26 (see constraints.txt) without its tests.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

ARCHIVE = Path(".server/parts.tar.xz")
PYTHON = "3.12"
NUMPY = "1.26.4"
LEFT_OUT = ("__pycache__", "tests", "libpython", ".pyi", "distutils", "f2py", "include")
"""Files and folders with names that begin or end with one of these are not packed."""


def pack(archive: Path) -> None:
    """Write the archive, from the installed nvidia-pytriton wheel and a wheel of numpy that pip downloads.

    Raises:
        FileNotFoundError: nvidia-pytriton is not installed.
    """
    spec = find_spec("pytriton")
    if spec is None or not spec.origin:
        raise FileNotFoundError("the nvidia-pytriton wheel (see stale-pins.txt) is not installed here")
    packages = Path(spec.origin).parents[1]
    server = Path("pytriton/tritonserver")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive, "w:xz") as tar:
        empty = Path(folder) / "__init__.py"
        empty.touch()
        tar.add(empty, "pytriton/__init__.py")
        stub = server / "python_backend_stubs" / PYTHON
        for part in (server / "bin", server / "backends", stub, Path("nvidia_pytriton.libs")):
            tar.add(packages / part, str(part), filter=_wanted)
        download_numpy(Path(folder))
        with ZipFile(next(Path(folder).glob("numpy-*.whl"))) as wheel:
            wheel.extractall(Path(folder) / "numpy")
        for part in sorted((Path(folder) / "numpy").iterdir()):
            tar.add(part, part.name, filter=_wanted)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the archive into `folder`, a Python's site-packages."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def download_numpy(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += [f"--dest={folder}", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    subprocess.run([*command, "--platform=manylinux2014_x86_64", f"numpy=={NUMPY}"], check=True)


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(member.name).name
    return None if name.startswith(LEFT_OUT) or name.endswith(LEFT_OUT) else member


if __name__ == "__main__":
    pack(ARCHIVE)
    print(f"{ARCHIVE}, {ARCHIVE.stat().st_size / 1e6:.1f} MB")
