"""The compiled engine's library: `engine.cpp`, compiled for the processor of this machine.

It is compiled once, which takes about two seconds, and kept in the user's cache folder. If that one cannot be loaded,
it is compiled again. It serves models of any size.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from misotts.engines.table import EngineError

SOURCE = Path(__file__).with_name("engine.cpp")
"""It includes the headers beside it."""
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fopenmp")
TIMEOUT_S = 120

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "transformer_new": (_POINTER, [_POINTER, ctypes.c_float, _POINTER]),
    "transformer_forward": (
        None,
        [_POINTER, _SIZE, *[_POINTER] * 4, _SIZE, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER],
    ),
    "transformer_free": (None, [_POINTER]),
    "depth_new": (_POINTER, [_POINTER, _POINTER, _POINTER]),
    "depth_forward": (None, [_POINTER, _SIZE, *[_POINTER] * 4, _SIZE, _POINTER, _POINTER, _POINTER]),
    "depth_free": (None, [_POINTER]),
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """Return the library, compiled if this is the first time on this machine.

    Raises:
        EngineError: there is no C++ compiler, it fails, or the cache folder cannot be written.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]  # such as "ccache g++"
        path = _cache() / f"engine-{_key(compiler)}.so"
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError:  # it is not there, or damaged
            _compile(compiler, path)
            loaded = ctypes.CDLL(str(path))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        reason = f"{error.filename} is not installed" if isinstance(error, FileNotFoundError) else _last_line(error)
        raise EngineError(f"the compiled engine cannot be made: {reason}") from None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def library_fault() -> str | None:
    """Make the library; return the reason if that is not possible."""
    try:
        library()
    except EngineError as error:
        return str(error)
    return None


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "misotts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(compiler: list[str]) -> str:
    """Hash of what determines the library: a library for another processor could stop the process."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        processor = platform.processor()
    sources = [SOURCE, *sorted(SOURCE.parent.glob("*.h"))]
    text = [source.read_text(encoding="utf-8") for source in sources]
    parts = (*text, *compiler, *FLAGS, platform.machine(), processor)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: list[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as draft:
        made = Path(draft) / path.name
        command = [*compiler, *FLAGS, str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
        with made.open("rb") as file:
            os.fsync(file.fileno())  # a library that a power cut shortened would end the process that reads it
        made.replace(path)


def _last_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr.strip():
        return str(error.stderr.strip().splitlines()[-1])
    return str(error)
