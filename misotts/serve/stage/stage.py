"""The base of the four stages as Triton runs them: start, heartbeat, metrics, failure."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from typing import Any

import torch

from misotts.config import ModelConfig
from misotts.serve.settings import StageSettings
from misotts.serve.stage.link import LauncherLink
from misotts.serve.stage.metrics import StageMetrics
from misotts.serve.stage.tensors import refuse
from misotts_client.errors import Internal, MisoError
from misotts_gateway.spans import FLAG, SpanSender

log = logging.getLogger("misotts")


class Stage:
    """One stage. Triton calls `initialize`, `execute` and `finalize`; a stage defines the other methods."""

    name: str
    _failure: Exception | None = None
    spans: SpanSender | None = None
    """Where the stage tells when it worked for an utterance; None without --traces."""

    def load(self) -> None:
        """Load the stage. `self.settings`, `self.config`, `self.device` and `self.link` are set."""
        raise NotImplementedError

    def take(self, request: Any, sender: Any) -> None:
        """Accept one request and return at once. `sender` sends the responses later.

        Raises:
            MisoError: the request is refused.
        """
        raise NotImplementedError

    def progress(self) -> float:
        """Return a number that changes whenever the stage's work goes on, and stands still if it hangs."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Any]:
        """Return the stage's metrics by name: totals of counters, values of gauges, and what histograms have observed
        since the last call, in seconds. See `misotts.serve.stage.metrics`."""
        raise NotImplementedError

    def malformed(self) -> int:
        """Return the number of messages of other processes that were dropped because they made no sense."""
        return self.link.malformed

    def failure(self) -> Exception | None:
        """Return the error that has ended the stage's work for good, if there is one."""
        return self._failure

    def check_device(self) -> None:
        """Check the GPU after a failure: an illegal access or a lost GPU makes all later work of this process fail."""
        if self.device != "cpu":
            try:
                torch.cuda.synchronize()
            except RuntimeError as error:
                self._failure = error

    def initialize(self, _: dict[str, str]) -> None:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(_LineFormatter(f"misotts {self.name}: %(levelname)s "))
        logging.basicConfig(handlers=[handler], level=logging.INFO)
        self.settings = StageSettings.load()
        self.link = LauncherLink(self.settings.control_socket, self.name)
        threading.excepthook = self.thread_died
        if FLAG in self.settings.gateway:
            self.spans = SpanSender(self.settings.run)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.config = ModelConfig.load(self.settings.model)
            self.load()
        except Exception as error:
            log.info("loading failed", exc_info=True)  # INFO goes to the log file only: the launcher reports one line
            self.link.failed(_first_line(error))
            raise
        self._published = StageMetrics(self.name)
        gc.freeze()  # full collections of what lives as long as the process would hold every stream for 0.1 s
        self.link.start_heartbeat(self._heartbeat)
        self.link.ready()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.take(request, sender)
            except MisoError as error:
                self.refuse(sender, error)
            except Exception:
                log.exception("a request failed")
                self.refuse(sender, Internal(f"the {self.name} stage failed"))

    def refuse(self, sender: Any, error: MisoError) -> None:
        """Answer a request with an ordinary error."""
        refuse(sender, error)

    def thread_died(self, died: threading.ExceptHookArgs) -> None:
        """Report the stage as failed: what its thread did is done by nothing else."""
        log.error("a thread died", exc_info=died.exc_value)
        name = died.thread.name if died.thread else "a thread"
        self.link.failed(f"its thread {name} died: {died.exc_value!r}")

    def _heartbeat(self) -> dict[str, Any]:
        if failure := self.failure():
            self.link.failed(_first_line(failure))
        metrics = {**self.metrics(), "malformed_messages_total": self.malformed()}
        self._published.publish(metrics)
        return {"progress": self.progress(), **metrics}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


class _LineFormatter(logging.Formatter):
    """Begins every line, also of a traceback, with `prefix`, by which the launcher selects lines for stderr."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = logging.PercentStyle(prefix)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        prefix = self._prefix.format(record)
        return "\n".join(prefix + line for line in text.splitlines())
