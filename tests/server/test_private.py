"""Callers reach the gateway's three ports and nothing else; other users of the machine reach no more than they do."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import numpy as np
import psutil
import pytest

from misotts.serve.local import RunningServer
from misotts.serve.settings import SETTINGS
from misotts.serve.stage.header import Header
from tests.support.processes import processes, run_folder, shared_memory
from tests.support.raw import infer, text

HEADER = Header(stream=1, slot=0, index=0, seed=1, admission=1, session_turns=0, finish="eos").pack()
STAGE_INPUTS: dict[str, dict[str, np.ndarray]] = {
    "prompt": dict(TEXT=text(b"hello")),
    "generate": dict(FRAMES=np.zeros((3, 33), np.int32), ORDER=text(b'{"max_frames": 1, "seed": 1}')),
    "decode": dict(HEADER=HEADER, CODES=np.ones((2, 32), np.int32)),
    "watermark": dict(HEADER=HEADER, AUDIO=np.zeros(3840, np.float32)),
}


def test_the_server_listens_on_the_three_ports_of_the_gateway_only(server: RunningServer) -> None:
    """It has no UDP socket and no socket with an abstract name, which any user could connect to."""
    found = [connection for each in processes(server) for connection in each.net_connections("inet")]
    bound = {c.laddr.port for c in found if c.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)}
    assert bound == set(vars(server.ports).values())
    paths = {Path(str(c.laddr)) for each in processes(server) for c in each.net_connections("unix") if c.laddr}
    assert {path.parent for path in paths} == {run_folder(server)}
    assert {"control", "grpc:1", "metrics", "acknowledge"} <= {path.name for path in paths}


def test_other_users_can_open_neither_sockets_nor_shared_memory(server: RunningServer) -> None:
    folder = run_folder(server)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / SETTINGS).stat().st_mode) == 0o600
    regions = shared_memory(server)
    assert len(regions) == 4
    assert {stat.S_IMODE(region.stat().st_mode) for region in regions} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_by_the_run_folder(server: RunningServer) -> None:
    paths = [run_folder(server) / "grpc:1", *shared_memory(server)]
    pid = os.fork()
    if not pid:  # the child may do nothing but look and end
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os._exit(sum(os.access(path, os.R_OK) for path in paths))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_watermarks_key_stands_on_no_command_line_and_in_no_environment(server: RunningServer, key: bytes) -> None:
    for process in processes(server):
        words = " ".join([*process.cmdline(), *process.environ().values()])
        assert not re.search(f"{key.hex()}|{key!r}", words)


@pytest.mark.parametrize("stage", STAGE_INPUTS)
def test_no_stage_answers_callers(server: RunningServer, stage: str) -> None:
    refusal = infer(server.url, stage, **STAGE_INPUTS[stage]).error_message
    assert stage in refusal, "the model that was asked for"
    assert "misotts" in refusal, "the model that is there"
