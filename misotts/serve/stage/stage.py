"""The base of the four `model.py`: start-up, the secret, signs of life, metrics."""

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
    """One stage of the road. Triton calls `initialize`, `execute` and `finalize`; a stage defines the rest."""

    name: str
    _failure: Exception | None = None

    def load(self) -> None:
        """Load what the stage needs; `self.settings`, `self.config`, `self.device` and `self.link` are there."""
        raise NotImplementedError

    def take(self, request: Any, sender: Any) -> None:
        """Accept one request and return at once; answers go through `sender`.

        Raises:
            MisoError: the request is refused.
        """
        raise NotImplementedError

    def idle_s(self) -> float:
        """Age of the worker's last sign of life, in seconds."""
        raise NotImplementedError

    def report(self) -> dict[str, float]:
        """Counters for the metrics, `name -> total since start`; names get the prefix `misotts_<stage>_`."""
        raise NotImplementedError

    def state(self) -> dict[str, float]:
        """What stands now, for the metrics and the launcher, `name -> value`."""
        return {}

    def observations(self) -> dict[str, list[float]]:
        """Single measurements in seconds since the last call, for histograms, `name -> values`."""
        return {}

    def failure(self) -> Exception | None:
        """What has ended the stage's work for good; None while it goes on."""
        return self._failure

    def check_device(self) -> None:
        """To be called when work has failed: some errors (an illegal access, a GPU that is lost) break CUDA for this
        process, so that everything after them fails too."""
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
            log.info("loading failed", exc_info=True)  # for the log file: the launcher says it in one line
            self.link.failed(_first_line(error))
            raise
        self._metrics = StageMetrics(self.name)
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
        """Refuse a caller that is no stage of this server.

        Raises:
            InvalidArgument: the secret is missing or wrong.
        """
        secret = array(request, "SECRET")
        if secret is None or secret.reshape(-1)[0].decode(errors="replace") != self.settings.secret:
            self.refuse_outsider()

    def refuse_outsider(self) -> None:
        raise InvalidArgument(None, f"{self.name} is a stage of misotts and answers only to it; call the model misotts")

    def _heartbeat(self) -> dict[str, Any]:
        if failure := self.failure():
            self.link.failed(_first_line(failure))
        values = {**self.report(), **self.state()}
        self._metrics.publish(values, self.observations())
        return {"idle_s": self.idle_s(), **values}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


class _LineFormatter(logging.Formatter):
    """Begins every line, those of a traceback too, with `prefix`: the launcher knows by it what belongs on stderr."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = logging.PercentStyle(prefix)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        prefix = self._prefix.format(record)
        return "\n".join(prefix + line for line in text.splitlines())
