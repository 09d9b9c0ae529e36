"""The process to supervise (PID 1 in a container): it owns tritonserver from start to drain.

    starting   settings, repository and sockets in a run folder; tritonserver; wait for the four stages
    serving    answer readiness; watch the stages
    draining   refuse new requests, let streams end, stop tritonserver

Exit status: 0 after a drain, 1 when something failed or died.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from misotts.config import ConfigError, ModelConfig
from misotts.engines.table import EngineChoice, EngineError, check_engines
from misotts.serve.control import Control
from misotts.serve.readiness import Readiness
from misotts.serve.run_folder import run_folder
from misotts.serve.settings import STAGES, StageSettings
from misotts.serve.triton_log import TritonLog, ending
from misotts.serve.tritonserver import NoTritonError, Ports, TritonServer, lay_out_repository
from misotts.watermark.key import REFERENCE_KEY

START_LIMIT_S = 1800.0
"""Longest time to load: an 8B model from a cold network disk takes many minutes."""
STOP_LIMIT_S = 10
"""Time that tritonserver gets to stop once its streams have ended."""
HURRIED_STOP_LIMIT_S = 2
"""The same where it would wait in vain: a stage is dead, or streams were not let end."""
SETTLED_S = 1.0
"""Two beats of the stages: if they hold nothing for so long, nothing is on its way between two of them either."""
WATCH_S = 0.1


class ServeError(RuntimeError):
    """The server cannot start, or has stopped; the message is the one line to show."""


@dataclass(frozen=True)
class ServeOptions:
    """What `misotts serve` was asked for."""

    model: Path
    voices: Path | None = None
    host: str = "0.0.0.0"
    ports: Ports = field(default_factory=Ports)
    max_streams: int = 16
    kv_memory: int | None = None
    engines: EngineChoice = EngineChoice()
    watermark_key: bytes = field(default=REFERENCE_KEY, repr=False)
    drain_s: float = 60.0
    """Longest time that running streams get to end."""


def serve(options: ServeOptions) -> None:
    """Run the server until SIGINT or SIGTERM, then drain it.

    Raises:
        ServeError: it could not start, or a stage or tritonserver died.
    """
    _check(options)
    with contextlib.ExitStack() as stack:
        try:
            launcher = _Launcher(options, stack.enter_context(run_folder()))
        except OSError as error:  # none can be written, or its path is too long for a socket's name
            raise ServeError(f"no run folder in {os.environ.get('TMPDIR', '/tmp')} (set TMPDIR): {error}") from None
        try:
            launcher.start()
            launcher.watch()
            launcher.drain()
        except ServeError as error:
            raise ServeError(f"{error}{launcher.keep_log()}") from None
        finally:
            launcher.stop()


def _check(options: ServeOptions) -> None:
    """Find what would fail minutes later."""
    try:
        ModelConfig.load(options.model)
        check_engines(options.model, options.engines, options.max_streams)
    except (ConfigError, EngineError) as error:
        raise ServeError(str(error)) from None
    if options.voices and not options.voices.is_dir():
        raise ServeError(f"no voices at {options.voices}: not a folder")
    for name, port in vars(options.ports).items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except OSError as error:
                where = f"the {name} port {port} of {options.host}"
                raise ServeError(f"cannot listen on {where}: {error.strerror}") from None


class _Launcher:
    def __init__(self, options: ServeOptions, run: Path) -> None:
        self._options = options
        self._settings = StageSettings(
            run=str(run),
            model=str(options.model.absolute()),
            voices=str(options.voices.absolute()) if options.voices else None,
            max_streams=options.max_streams,
            kv_memory=options.kv_memory,
            engines=options.engines,
            watermark_key=options.watermark_key.hex(),
        )
        self._log = TritonLog(run / "tritonserver.log")
        self._stopping = threading.Event()
        self._hurried = False
        self._phase = "starting"
        self._process: subprocess.Popen[str] | None = None
        self._control = Control(self._settings.control_socket)
        self._readiness = Readiness(options.host, options.ports.ready, self._state)

    def start(self) -> None:
        """Start tritonserver and wait until every stage is ready."""
        began = time.monotonic()
        if self._options.watermark_key == REFERENCE_KEY:
            _say("the watermark's key is MisoTTS's published one: it proves nothing")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        self._settings.save()
        lay_out_repository(self._settings)
        try:
            triton = TritonServer.find(Path(self._settings.run))
        except NoTritonError as error:
            raise ServeError(str(error)) from None
        ports = self._options.ports
        self._process = subprocess.Popen(
            triton.command(self._settings, self._options.host, ports, STOP_LIMIT_S),
            env=triton.environment(self._settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is ours to handle: a drain, not a stop
            preexec_fn=_die_with_parent,
        )
        assert self._process.stdout
        threading.Thread(target=self._log.copy, args=(self._process.stdout,), name="log", daemon=True).start()
        self._wait_until_ready(began + START_LIMIT_S)
        if not self._stopping.is_set():
            self._phase = "serving"
            where = f"grpc {ports.grpc}, http {ports.http}, metrics {ports.metrics}, readiness {ports.ready}"
            _say(f"ready after {time.monotonic() - began:.1f} s on {self._options.host}: {where}")

    def _wait_until_ready(self, limit: float) -> None:
        while not (self._control.ready and self._triton_ready()) and not self._stopping.is_set():
            self._look()
            if time.monotonic() > limit:
                missing = [stage for stage in STAGES if self._control.stages[stage].state != "ready"]
                raise ServeError(f"not ready after {START_LIMIT_S:.0f} s; waiting for {', '.join(missing)}")

    def watch(self) -> None:
        """Return when asked to stop."""
        while not self._stopping.is_set():
            self._look()

    def drain(self) -> None:
        """Refuse new requests and wait for the running ones to end."""
        self._phase = "draining"
        self._control.command("drain", "prompt")  # what it has taken in goes down the whole road
        limit = time.monotonic() + self._options.drain_s
        settled = time.monotonic() + SETTLED_S
        while time.monotonic() < settled:
            self._look()
            if self._control.streams:
                settled = time.monotonic() + SETTLED_S
            if self._control.streams and time.monotonic() > limit:
                _say(f"{self._control.streams} streams did not end within {self._options.drain_s:g} s")
                self._hurried = True
                return
        _say("drained")

    def _look(self) -> None:
        """Wait a moment for news; report stages that load, raise when one fails, dies or hangs."""
        try:
            event = self._control.events.get(timeout=WATCH_S)
        except queue.Empty:
            event = None
        if event and event.state == "loading":
            _say(f"{event.stage:<10} {event.detail}")
        elif event and event.state == "failed":
            raise ServeError(f"{event.stage} failed{' to load' if self._phase == 'starting' else ''}: {event.detail}")
        elif event and event.state == "dead":
            raise ServeError(self._why_dead(f"{event.stage} died: {event.detail}"))
        if silent := self._control.hung_stage():
            raise ServeError(f"{silent} no longer answers")
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServeError(self._why_dead("tritonserver ended"))

    def stop(self) -> None:
        """Stop tritonserver and its stages, whatever state they are in."""
        self._phase = "stopping"
        process = self._process
        if process and process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                patient = self._control.ready and not self._hurried
                process.wait(STOP_LIMIT_S if patient else HURRIED_STOP_LIMIT_S)
        if process:
            _kill_group(process.pid)
            process.wait()
        self._readiness.close()

    def keep_log(self) -> str:
        """Move Triton's log out of the run folder, which is about to go; say where, if it could be."""
        kept = Path(tempfile.gettempdir()) / f"misotts-{os.getpid()}.log"
        return f" (log: {kept})" if self._log.keep(kept) else ""

    def _state(self) -> tuple[bool, dict[str, Any]]:
        """See `Readiness`."""
        stages = {stage: status.state for stage, status in self._control.stages.items()}
        ready = self._phase == "serving" and self._control.ready and self._control.hung_stage() is None
        return ready, {"phase": self._phase, "stages": stages, "streams": self._control.streams}

    def _triton_ready(self) -> bool:
        host = "127.0.0.1" if self._options.host == "0.0.0.0" else self._options.host
        try:
            with urllib.request.urlopen(f"http://{host}:{self._options.ports.http}/v2/health/ready", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _on_signal(self, number: int, _: object) -> None:
        if self._phase == "stopping":  # `stop` has more to do than wait for tritonserver
            if self._process:
                _kill_group(self._process.pid)
            return
        if self._stopping.is_set():  # asked twice: no more patience
            self._hurried = True
            raise ServeError("stopped before the streams had ended")
        _say(f"{signal.Signals(number).name}: draining; once more stops at once")
        self._stopping.set()

    def _why_dead(self, news: str) -> str:
        """Whose end it was: tritonserver takes its stages with it, and a stage's end is often heard of first."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        time.sleep(0.2)  # its last lines are on their way
        status = self._process.returncode
        if status == -signal.SIGKILL:  # nothing that it said before can be the reason
            return ending(status)
        return (news if status is None else ending(status)) + self._log.complaint()


def _die_with_parent() -> None:
    """In the child before exec: have the kernel kill tritonserver if the launcher is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _say(line: str) -> None:
    print(f"misotts: {line}", file=sys.stderr, flush=True)
