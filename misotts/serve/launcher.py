"""`misotts serve`, the process to supervise (PID 1 in a container): it owns tritonserver and the gateway.

starting   start the gateway, which answers /ready and /live from then on; start tritonserver, wait for the four stages
serving    watch the stages, tritonserver and the gateway
draining   the gateway refuses new requests, and ends when its callers have taken their last chunks and the kernel has
           sent them
stopping   stop tritonserver, then the gateway
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from misotts.config import ConfigError, ModelConfig, check_model_folder
from misotts.engines.table import EngineError, check_engines
from misotts.files import folder_fault
from misotts.serve.child import Child
from misotts.serve.control import SILENT_S, TRITON, Control, Event
from misotts.serve.gpus import without_mps
from misotts.serve.report import report
from misotts.serve.run_folder import RunFolderError, close_shared_memory, run_folder
from misotts.serve.settings import GATEWAY, ServeOptions, StageSettings
from misotts.serve.triton_log import TritonLog
from misotts.serve.tritonserver import NoTritonError, TritonServer, tcp_listeners
from misotts.watermark.key import KEY_ENV, REFERENCE_KEY

START_LIMIT_S = 1800.0
"""Longest time to load: an 8B model from a cold network disk takes many minutes."""
LISTEN_LIMIT_S = 30.0
"""Time after which tritonserver listens once all stages are ready; it takes about a second."""
STOP_LIMIT_S = 10
"""Time that tritonserver gets to stop once all streams have ended."""
GATEWAY_START_LIMIT_S = 120.0
"""Time after which the gateway listens. It takes a second, and longer where the start of the stages takes the cores."""
GATEWAY_STOP_LIMIT_S = 2
"""Time that the gateway gets to tell its callers of the end."""
WATCH_S = 0.1
START_WATCH_S = 0.02
"""The same during the start, in which the stages' shared memory appears and is closed to other users."""
ASK_S = 2.0
TELL_S = 0.5
"""The gateway hears the server's state at every change and this often."""


class ServeError(RuntimeError):
    """The server cannot start or has stopped. The message is one line for the operator."""


def serve(options: ServeOptions) -> None:
    """Run the server until SIGINT or SIGTERM, then drain it.

    Raises:
        ServeError: the server cannot start, or a stage, tritonserver or the gateway has died.
    """
    with _received_signals() as signals, contextlib.ExitStack() as stack:
        model = _check(options)
        try:
            run = stack.enter_context(run_folder())
            settings = StageSettings(**vars(options), run=run)
            control = Control(settings.control_socket)
        except (RunFolderError, OSError) as error:
            raise ServeError(str(error)) from None
        _Launcher(settings, model, control, signals).run()


@contextlib.contextmanager
def _received_signals() -> Iterator[list[str]]:
    """Yield a list that gets the name of each signal that comes during the block: the first one asks for a drain, the
    second one for an immediate stop."""
    received: list[str] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier = [signal.signal(number, lambda it, _: received.append(signal.Signals(it).name)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            # A further signal must not kill a process that has drained and is about to end with status 0.
            signal.signal(number, signal.SIG_IGN if received else handler)


def _check(options: ServeOptions) -> ModelConfig:
    """Check the options that would otherwise fail only after minutes; return what the model folder says."""
    try:
        model = check_model_folder(options.model)
        check_engines(options.model, options.engines, options.max_streams)
    except (ConfigError, EngineError) as error:
        raise ServeError(str(error)) from None
    if options.voices and (fault := folder_fault(options.voices)):
        raise ServeError(f"no voices at {options.voices}: it {fault}")
    return model


class _Launcher:
    def __init__(self, settings: StageSettings, model: ModelConfig, control: Control, signals: Sequence[str]) -> None:
        self._settings, self._control, self._signals = settings, control, signals
        self._model = {"positions": model.max_seq_len, "audio_codes": model.audio_codes}
        self._log = TritonLog(settings.run / "tritonserver.log")
        self._triton = Child(TRITON, self._log.copy)
        self._gateway_error = ""
        """The line with which the gateway has given up."""
        self._gateway = Child(GATEWAY, self._copy_gateway_lines)
        self._phase: Literal["starting", "serving", "draining", "stopping"] = "starting"
        self._reason = ""
        """The error that ends the server."""
        self._told: dict[str, Any] = {}
        """What the gateway has heard last, and when."""
        self._told_at = 0.0

    def run(self) -> None:
        earlier, threading.excepthook = threading.excepthook, self._thread_died
        drained = False
        try:
            self._start()
            while not self._signals:
                self._watch()
            drained = self._phase == "serving" and self._drain()
        except (ServeError, NoTritonError) as error:
            self._reason = str(error)
            log = "" if self._gateway_error else self._save_log()  # where Triton's log says nothing
            raise ServeError(f"{error}{log}") from None
        finally:
            self._phase = "stopping"
            self._tell_gateway()
            if drained and self._control.ready:
                self._end(self._triton, STOP_LIMIT_S)
            self._triton.kill()
            self._end(self._gateway, GATEWAY_STOP_LIMIT_S)
            threading.excepthook = earlier

    def _start(self) -> None:
        """Start the gateway and tritonserver and wait until every stage is ready, or a signal comes."""
        began = time.monotonic()
        if self._settings.watermark_key == REFERENCE_KEY:
            _report("the watermark key is the one that MisoTTS publishes: the mark proves nothing")
        if without_mps():
            _report("no MPS: the stages take turns on the GPU instead of sharing it (docs/fleet.md)")
        self._settings.save()
        environment = {name: value for name, value in os.environ.items() if name != KEY_ENV}
        self._gateway.start(self._gateway_command(), environment)
        triton = TritonServer.find(self._settings.run)
        command = triton.command(self._settings, STOP_LIMIT_S)
        self._triton.start(command, triton.environment(self._settings), stdout_too=True)
        self._wait(lambda: "" if self._control.gateway.state == "ready" else GATEWAY, GATEWAY_START_LIMIT_S)
        self._wait(lambda: ", ".join(self._control.not_ready), START_LIMIT_S)
        self._wait(self._silent_socket, LISTEN_LIMIT_S)
        if self._signals:
            return
        if ports := tcp_listeners(self._triton.pid):
            what = f"listens on TCP port {ports[0]} although it is told to use the sockets of the run folder alone"
            raise ServeError(f"tritonserver {what}: this release cannot be kept private")
        threading.Thread(target=self._ask_triton, name="probe", daemon=True).start()
        self._phase = "serving"
        where = ", ".join(f"{name} {port}" for name, port in vars(self._settings.ports).items())
        _report(f"ready after {time.monotonic() - began:.1f} s on {self._settings.host}: {where}")

    def _gateway_command(self) -> list[str]:
        settings = self._settings
        own = {"upstream": f"unix:{settings.triton_socket}", "launcher": settings.control_socket, "host": settings.host}
        ports = {f"{name}-port": port for name, port in vars(settings.ports).items()}
        voices = {"voices": settings.voices} if settings.voices else {}
        flags = [f"--{name}={value}" for name, value in {**own, **ports, **voices}.items()]
        return [sys.executable, "-m", "misotts_gateway", *flags, *settings.gateway]

    def _silent_socket(self) -> str:
        """Return a text on a socket on which tritonserver does not listen yet, or an empty string."""
        for path in (self._settings.triton_socket, self._settings.metrics_socket):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(path):
                    return f"tritonserver to listen on {path}, which not every release may support"
        return ""

    def _ask_triton(self) -> None:
        """Note every `ASK_S` that tritonserver answers: one that hangs has neither ended nor lost its stages."""
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(SILENT_S / 4)
                connection.connect(self._settings.metrics_socket)
                connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                if connection.recv(1):
                    self._control.heard(TRITON)
            time.sleep(ASK_S)

    def _wait(self, missing: Callable[[], str], limit_s: float) -> None:
        """Watch until `missing()` is empty or a signal comes.

        Raises:
            ServeError: it takes longer than `limit_s`, or see `_watch`.
        """
        until = time.monotonic() + limit_s
        while not self._signals and (awaited := missing()):
            self._watch()
            if time.monotonic() > until:
                raise ServeError(f"not ready after {limit_s:.0f} s: still waiting for {awaited}")

    def _watch(self) -> None:
        """Wait a moment for a change of state, and look at everything.

        Raises:
            ServeError: a stage or the gateway fails, dies or hangs, tritonserver ends, or a second signal has come.
        """
        starting = self._phase == "starting"
        with contextlib.suppress(queue.Empty):
            self._handle(self._control.events.get(timeout=START_WATCH_S if starting else WATCH_S))
        if starting:
            close_shared_memory(self._settings.run)
        if hung := self._control.hung():  # first: after a gap in the launcher's own time no stage is silent
            raise ServeError(f"{hung} hangs: it has made no progress for {SILENT_S:.0f} s")
        self._tell_gateway()
        if self._triton.status is not None:
            raise ServeError(self._explain_triton("tritonserver ended"))
        if self._gateway.status is not None and not self._gateway_is_done:
            end = self._gateway.describe_end("the gateway ended")  # after it every line has been read
            raise ServeError(self._gateway_error or end)
        if len(self._signals) > 1 and not self._gateway_is_done:
            raise ServeError("stopped before all streams had ended")

    def _handle(self, event: Event) -> None:
        if event.state == "loading":
            _report(f"{event.sender:<10} {event.detail}")
        elif event.state == "failed":
            failed = "failed to load" if self._phase == "starting" else "failed"
            # The stage knows the folder by a link: see `StageSettings.save`.
            detail = event.detail.replace(f"{self._settings.run}/model", str(self._settings.model))
            raise ServeError(f"{event.sender} {failed}: {detail}")
        elif event.state == "dead" and event.sender != GATEWAY:  # `_watch` sees the end of the gateway's process
            raise ServeError(self._explain_triton(f"{event.sender} died: {event.detail}"))

    def _explain_triton(self, observed: str) -> str:
        """Return the reason of an end of which `observed` was noticed first: when tritonserver ends, its stages do."""
        end = self._triton.describe_end(observed)
        killed = self._triton.status == -signal.SIGKILL  # nothing that it logged before can be the reason
        return end if killed else end + self._log.recent_error()

    def _copy_gateway_lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.startswith("error: "):
                self._gateway_error = f"{GATEWAY}: {line.removeprefix('error: ').rstrip()}"
            else:
                _report(line.rstrip().removeprefix("misotts: "))  # which lines of gRPC lack

    @property
    def _gateway_is_done(self) -> bool:
        """True if the gateway has ended as a drain makes it end: every caller has taken its last chunk."""
        return self._phase == "draining" and self._gateway.status == 0

    def _drain(self) -> bool:
        """Have the gateway refuse new requests and wait until it has ended, as it does when its callers have got
        everything; return False if that takes too long."""
        self._phase = "draining"
        _report(f"{self._signals[0]}: draining; send it again to stop immediately")
        self._control.command(GATEWAY, "drain")
        limit = time.monotonic() + self._settings.drain_s
        while not self._gateway_is_done:
            self._watch()
            if time.monotonic() > limit:
                streams, limit_s = self._control.streams, self._settings.drain_s
                _report(f"{streams} streams have not ended within {limit_s:g} s: stopping anyway")
                return False
        _report("all streams have ended")
        return True

    def _end(self, child: Child, limit_s: float) -> None:
        """Ask a child to end, and kill it after `limit_s` or at a further signal."""
        seen = len(self._signals)
        until = time.monotonic() + limit_s
        child.terminate()
        while child.status is None and time.monotonic() < until and len(self._signals) == seen:
            time.sleep(START_WATCH_S)
        child.kill()

    def _tell_gateway(self) -> None:
        """Send the gateway the server's state, which /ready and /live answer with."""
        state = {
            "model": self._model,
            "ready": self._phase == "serving" and self._control.ready,
            "phase": self._phase,
            "stages": self._control.states,
            "streams": self._control.streams,
            "reason": self._reason,
        }
        if state != self._told or time.monotonic() > self._told_at + TELL_S:
            self._told, self._told_at = state, time.monotonic()
            self._control.command(GATEWAY, "state", **state)

    def _save_log(self) -> str:
        """Save Triton's log from the run folder, which is about to be removed; return where it is, if it was saved."""
        target = Path(tempfile.gettempdir()) / f"misotts-{os.getpid()}.log"
        return f" (log: {target})" if self._log.save(target) else ""

    def _thread_died(self, failure: threading.ExceptHookArgs) -> None:
        """End the server when one of the launcher's threads has died: a launcher that hears a part of its stages cannot
        watch them."""
        name = failure.thread.name if failure.thread else "a thread"
        self._control.events.put(Event(f"the launcher's {name}", "failed", repr(failure.exc_value)))


def _report(line: str) -> None:
    report(f"misotts: {line}")
