"""`misotts serve`, the process to supervise (PID 1 in a container): it owns tritonserver and goes through four phases.

starting   write settings and repository to a run folder, start tritonserver, wait for the four stages
serving    answer readiness probes, watch the stages
draining   refuse new requests, let streams end
stopping   stop tritonserver
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from misotts.config import ConfigError, ModelConfig
from misotts.engines.table import EngineError, check_engines
from misotts.serve.control import SILENT_S, Control, StageEvent
from misotts.serve.readiness import Readiness, answers
from misotts.serve.run_folder import run_folder
from misotts.serve.settings import ServeOptions, StageSettings
from misotts.serve.triton_process import TritonProcess
from misotts.serve.tritonserver import NoTritonError, TritonServer, lay_out_repository
from misotts.watermark.key import REFERENCE_KEY

START_LIMIT_S = 1800.0
"""Longest time to load: an 8B model from a cold network disk takes many minutes."""
STOP_LIMIT_S = 10
"""Time that tritonserver gets to stop once all streams have ended."""
HURRIED_STOP_LIMIT_S = 2
"""The same where it would wait in vain, because a stage is dead or streams have not ended."""
SETTLED_S = 1.0
"""Two heartbeats: if all stages report zero streams for this long, none is in flight between two of them."""
WATCH_S = 0.1


class ServeError(RuntimeError):
    """The server cannot start or has stopped. The message is one line for the operator."""


def serve(options: ServeOptions) -> None:
    """Run the server until SIGINT or SIGTERM, then drain it.

    Raises:
        ServeError: the server cannot start, or a stage or tritonserver has died.
    """
    _check(options)
    with contextlib.ExitStack() as stack:
        try:
            run = stack.enter_context(run_folder())
            settings = StageSettings(**vars(options), run=run)
            control = Control(settings.control_socket)
        except OSError as error:  # no folder can be written, or its path is too long for a socket
            where = f"{tempfile.gettempdir()} (set TMPDIR to use another)"
            raise ServeError(f"cannot make a run folder in {where}: {error}") from None
        _Launcher(settings, control).run()


def _check(options: ServeOptions) -> None:
    """Check the options that would otherwise fail only after minutes."""
    try:
        ModelConfig.load(options.model)
        check_engines(options.model, options.engines, options.max_streams)
    except (ConfigError, EngineError) as error:
        raise ServeError(str(error)) from None
    if options.voices and not options.voices.is_dir():
        raise ServeError(f"no voices at {options.voices}: not a folder")
    for name, port in vars(options.ports).items():
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((options.host, port))
        except OSError as error:
            where = f"the {name} port {port} of {options.host}"
            raise ServeError(f"cannot listen on {where}: {error.strerror}") from None


class _Launcher:
    def __init__(self, settings: StageSettings, control: Control) -> None:
        self._settings, self._control = settings, control
        self._triton = TritonProcess(settings.run / "tritonserver.log")
        self._phase: Literal["starting", "serving", "draining", "stopping"] = "starting"
        self._signals: list[str] = []
        """Names of the signals that have come: the first one asks for a drain, the second one for an immediate stop."""

    def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        readiness = Readiness(self._settings.host, self._settings.ports.ready, self._state)
        drained = False
        try:
            self._start()
            while not self._signals:
                self._watch()
            drained = self._drain()
        except (ServeError, NoTritonError) as error:
            raise ServeError(f"{error}{self._save_log()}") from None
        finally:
            self._phase = "stopping"
            self._triton.stop(STOP_LIMIT_S if drained and self._control.ready else HURRIED_STOP_LIMIT_S)
            readiness.close()

    def _start(self) -> None:
        """Start tritonserver and wait until every stage is ready, or a signal comes."""
        began = time.monotonic()
        host, ports = self._settings.host, self._settings.ports
        if self._settings.watermark_key == REFERENCE_KEY:
            _report("the watermark key is the one that MisoTTS publishes: the mark proves nothing")
        self._settings.save()
        lay_out_repository(self._settings)
        triton = TritonServer.find(self._settings.run)
        command = triton.command(self._settings, STOP_LIMIT_S)
        self._triton.start(command, triton.environment(self._settings))
        health = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{ports.http}/v2/health/ready"
        while not (self._control.ready and answers(health)):
            if self._signals:
                return
            self._watch()
            if time.monotonic() > began + START_LIMIT_S:
                loading = [stage for stage, status in self._control.stages.items() if status.state != "ready"]
                missing = ", ".join(loading) or "tritonserver"
                raise ServeError(f"not ready after {START_LIMIT_S:.0f} s: still waiting for {missing}")
        self._phase = "serving"
        where = f"grpc {ports.grpc}, http {ports.http}, metrics {ports.metrics}, readiness {ports.ready}"
        _report(f"ready after {time.monotonic() - began:.1f} s on {host}: {where}")

    def _watch(self) -> None:
        """Wait up to `WATCH_S` for a stage's change of state.

        Raises:
            ServeError: a stage fails, dies or hangs, tritonserver has ended, or a second signal has come.
        """
        with contextlib.suppress(queue.Empty):
            self._handle(self._control.events.get(timeout=WATCH_S))
        if hung := self._control.hung_stage():
            raise ServeError(f"{hung} hangs: it has made no progress for {SILENT_S:.0f} s")
        if self._triton.has_ended:
            raise ServeError(self._triton.explain_end("tritonserver ended"))
        if len(self._signals) > 1:
            raise ServeError("stopped before all streams had ended")

    def _handle(self, event: StageEvent) -> None:
        if event.state == "loading":
            _report(f"{event.stage:<10} {event.detail}")
        elif event.state == "failed":
            failed = "failed to load" if self._phase == "starting" else "failed"
            raise ServeError(f"{event.stage} {failed}: {event.detail}")
        elif event.state == "dead":
            raise ServeError(self._triton.explain_end(f"{event.stage} died: {event.detail}"))

    def _drain(self) -> bool:
        """Refuse new requests and wait until all streams have ended; return False if they take too long."""
        self._phase = "draining"
        _report(f"{self._signals[0]}: draining; send it again to stop immediately")
        self._control.command("drain", "prompt")  # the later stages finish what prompt has accepted
        limit = time.monotonic() + self._settings.drain_s
        settled = time.monotonic() + SETTLED_S
        while time.monotonic() < settled:
            self._watch()
            if streams := self._control.streams:
                settled = time.monotonic() + SETTLED_S
                if time.monotonic() > limit:
                    _report(f"{streams} streams have not ended within {self._settings.drain_s:g} s: stopping anyway")
                    return False
        _report("all streams have ended")
        return True

    def _save_log(self) -> str:
        """Save Triton's log from the run folder, which is about to be removed; return where it is, if it was saved."""
        target = Path(tempfile.gettempdir()) / f"misotts-{os.getpid()}.log"
        return f" (log: {target})" if self._triton.log.save(target) else ""

    def _state(self) -> tuple[bool, dict[str, Any]]:
        """See `Readiness`."""
        stages = {stage: status.state for stage, status in self._control.stages.items()}
        ready = self._phase == "serving" and self._control.ready and self._control.hung_stage() is None
        return ready, {"phase": self._phase, "stages": stages, "streams": self._control.streams}

    def _on_signal(self, number: int, _: object) -> None:
        self._signals.append(signal.Signals(number).name)
        if self._phase == "stopping":
            self._triton.kill()


def _report(line: str) -> None:
    print(f"misotts: {line}", file=sys.stderr, flush=True)
