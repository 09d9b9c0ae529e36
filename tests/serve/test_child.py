"""A child of the launcher, with shell commands in its place."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from misotts.serve.child import Child, describe_end
from tests.support.waiting import wait_until


class Shell(Child):
    """Runs a script and keeps what it prints."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__("tritonserver", self._keep)

    def _keep(self, lines: Iterable[str]) -> None:
        self.lines += lines

    def run(self, script: str, stdout_too: bool = True) -> None:
        self.start(["sh", "-c", script], os.environ, stdout_too)


@pytest.fixture
def shell() -> Shell:
    return Shell()


def test_it_ends_by_itself(shell: Shell) -> None:
    shell.run("echo out; echo err >&2; exit 3")
    wait_until(lambda: shell.status is not None)
    assert shell.describe_end("decode died") == "tritonserver ended with status 3"
    assert sorted(shell.lines) == ["err\n", "out\n"]
    shell.kill()


def test_its_stdout_may_stay_the_launchers(shell: Shell, capfd: pytest.CaptureFixture[str]) -> None:
    shell.run("echo out; echo err >&2", stdout_too=False)
    wait_until(lambda: shell.lines)
    assert shell.describe_end("") == "tritonserver ended with status 0"
    assert (capfd.readouterr().out, shell.lines) == ("out\n", ["err\n"])


def test_it_is_killed_with_its_children(shell: Shell, tmp_path: Path) -> None:
    shell.run(f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait; sleep 60")
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    child = int((tmp_path / "child").read_text())
    shell.terminate()
    time.sleep(0.1)
    assert shell.status is None
    shell.kill()
    assert shell.describe_end("decode died") == describe_end("tritonserver", -9)
    wait_until(lambda: not Path(f"/proc/{child}/exe").exists())


def test_what_is_observed_of_one_that_goes_on_is_its_end(shell: Shell) -> None:
    shell.run("sleep 60")
    assert shell.describe_end("decode died") == "decode died"
    shell.terminate()
    wait_until(lambda: shell.status is not None)


def test_one_that_was_never_started_has_no_end(shell: Shell) -> None:
    shell.terminate()
    shell.kill()
    assert shell.status is None


def test_an_end_is_described() -> None:
    assert describe_end("tritonserver", 1) == "tritonserver ended with status 1"
    assert describe_end("the gateway", -11) == "the gateway was killed by signal 11"
    oom = "tritonserver was killed by signal 9, perhaps by the kernel because memory ran out (see dmesg)"
    assert describe_end("tritonserver", -9) == oom
