"""The base of the four stages as Triton runs them: start, authentication, heartbeat, metrics."""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch

from misotts.config import ModelConfig
from misotts.serve.settings import StageSettings
from misotts.serve.stage.link import LauncherLink
from misotts.serve.stage.metrics import StageMetrics
from misotts.serve.stage.tensors import array, refuse
from misotts_client.errors import Internal, InvalidArgument, MisoError

log = logging.getLogger("misotts")


class Stage:
    """One stage. Triton calls `initialize`, `execute` and `finalize`; a stage defines the other methods."""

    name: str
    _failure: Exception | None = None

    def load(self) -> None:
        """Load the stage. `self.settings`, `self.config`, `self.device` and `self.link` are set."""
        raise NotImplementedError

    def take(self, request: Any, sender: Any) -> None:
        """Accept one request and return at once. `sender` sends the responses later.

        Raises:
            MisoError: the request is refused.
        """
        raise NotImplementedError

    def idle_s(self) -> float:
        """Return the seconds since the worker last made progress."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Any]:
        """Return the stage's metrics by name: totals of counters, values of gauges, and what histograms have observed
        since the last call, in seconds. See `misotts.serve.stage.metrics`."""
        raise NotImplementedError

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
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.config = ModelConfig.load(self.settings.model)
            self.load()
        except Exception as error:
            log.info("loading failed", exc_info=True)  # INFO goes to the log file only: the launcher reports one line
            self.link.failed(_first_line(error))
            raise
        self._published = StageMetrics(self.name)
        self.link.start_heartbeat(self._heartbeat)
        self.link.ready()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.check_secret(request)
                self.take(request, sender)
            except MisoError as error:
                self.refuse(sender, error)
            except Exception:
                log.exception("a request failed")
                self.refuse(sender, Internal(f"the {self.name} stage failed"))

    def refuse(self, sender: Any, error: MisoError) -> None:
        """Answer a request with an ordinary error."""
        refuse(sender, error)

    def check_secret(self, request: Any) -> None:
        """Refuse a caller that is not a stage of this server.

        Raises:
            InvalidArgument: the secret is missing or wrong.
        """
        secret = array(request, "SECRET")
        if secret is None or secret.reshape(-1)[0].decode(errors="replace") != self.settings.secret:
            self.refuse_outsider()

    def refuse_outsider(self) -> None:
        reason = f"{self.name} is a stage of misotts and serves only its other stages; call the model misotts"
        raise InvalidArgument(None, reason)

    def _heartbeat(self) -> dict[str, Any]:
        if failure := self.failure():
            self.link.failed(_first_line(failure))
        metrics = self.metrics()
        self._published.publish(metrics)
        return {"idle_s": self.idle_s(), **metrics}


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
