"""The errors of the service as exceptions, their text form `CODE: FIELD: message`, and FINISH.

A Triton stream carries an error as text only: the server raises these classes and sends their text, from which
`error_from_text` makes the same exception again at the client.
"""

# ruff: noqa: N818 (the classes are named after the codes of the contract, without the suffix Error)

import re
from typing import ClassVar


class MisoError(Exception):
    """Base of all errors of the service, which are instances of its subclasses.

    Attributes:
        code: the name of the error in the contract, such as `NOT_FOUND`.
        message: the text without the code.
    """

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class FieldError(MisoError):
    """An error about one input of the request.

    Attributes:
        field: the name of the input in the contract, such as `TEMPERATURE`; None if no single input is at fault.
    """

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.args = (field, message)  # copying and pickling pass them to __init__
        self.field = field

    def __str__(self) -> str:
        return f"{self.code}: {self.field}: {self.message}" if self.field else super().__str__()


class InvalidArgument(FieldError):
    """The request cannot be served as it is; sending it again will not help."""

    code = "INVALID_ARGUMENT"


class NotFound(FieldError):
    """Something the request names, such as a voice, does not exist."""

    code = "NOT_FOUND"


class Unavailable(MisoError):
    """The server is full, stopping or out of reach; the same request may succeed later.

    Attributes:
        retry_after_s: seconds after which the server asks to be tried again; None if it gives no time.
    """

    code = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def try_again(why: str, wait_s: float) -> Unavailable:
    """Return a refusal that asks to be tried again in `wait_s`, at least 0.1 s and at most a minute."""
    wait_s = min(max(wait_s, 0.1), 60.0)
    return Unavailable(f"{why}; try again in {wait_s:.1f} s", wait_s)


class DeadlineExceeded(MisoError):
    """The request's own time limit passed before the end of speech."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(MisoError):
    """The stream was cancelled before the end of speech."""

    code = "CANCELLED"


class Internal(MisoError):
    """The server failed, or its response does not follow the contract."""

    code = "INTERNAL"


EOS = "eos"
"""FINISH of an utterance that ended by itself."""
LENGTH = "length"
"""FINISH of an utterance that was cut at its longest audio."""

_ERROR = "error: "


def finish_of(error: MisoError) -> str:
    """Return the FINISH of an utterance that ended with `error`."""
    return f"{_ERROR}{error}"


def error_of(finish: str) -> MisoError | None:
    """Return the error in a FINISH; None for `EOS`, `LENGTH` and the empty FINISH of earlier chunks."""
    return error_from_text(finish.removeprefix(_ERROR)) if finish.startswith(_ERROR) else None


def error_from_text(text: str) -> MisoError:
    """Return the error that a text describes; `error_from_text(str(error))` equals `error` in class, field, message.

    Words that Triton puts before the code (`in ensemble 'misotts', ...`) are dropped. Triton's own refusals have no
    code and keep all their words. An unknown text becomes `Internal`.
    """
    found = _CODED.search(text)
    if not found:
        return _error_from_triton(text.strip())
    kind, message = _BY_CODE[found["code"]], found["message"]
    if issubclass(kind, Unavailable):
        retry = _RETRY.search(message)
        return kind(message, float(retry[1]) if retry else None)
    if issubclass(kind, FieldError):
        named = _FIELD.match(message)
        return kind(named[1], named[2]) if named else kind(None, message)
    return kind(message)


_BY_CODE: dict[str, type[MisoError]] = {
    kind.code: kind for kind in (InvalidArgument, NotFound, Unavailable, DeadlineExceeded, Cancelled, Internal)
}
_CODED = re.compile(rf"\b(?P<code>{'|'.join(_BY_CODE)}): (?P<message>.*)", re.DOTALL)
_FIELD = re.compile(r"([A-Z][A-Z0-9_]*): (.*)", re.DOTALL)
_RETRY = re.compile(r"try again in (\d+(?:\.\d+)?) s\b")

# Triton's own words. A missing input is searched first, because that text begins with the inputs that were given.
_MISSING_INPUT = re.compile(r"missing required input\(s\) \['([^']*)'")
_WRONG_INPUT = re.compile(r"\binput(?: tensor)? '([^']*)'")
_TIMED_OUT = re.compile("request timeout expired", re.IGNORECASE)
_OUT_OF_SERVICE = re.compile(
    "no available versions|not healthy|not ready|server exiting|server is stopping|maximum queue size", re.IGNORECASE
)


def _error_from_triton(text: str) -> MisoError:
    wrong = _MISSING_INPUT.search(text) or _WRONG_INPUT.search(text)
    # An input that is wrong inside the ensemble was sent by one stage to the next, not by the caller.
    if wrong and not text.startswith("in ensemble"):
        return InvalidArgument(wrong[1], text)
    if _TIMED_OUT.search(text):
        return DeadlineExceeded(text)
    if _OUT_OF_SERVICE.search(text):
        return Unavailable(text)
    if "unknown model" in text:
        return NotFound(None, text)
    return Internal(text)
