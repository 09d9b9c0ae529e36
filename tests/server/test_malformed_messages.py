"""Nonsense on the sockets in the run folder is dropped and counted, and streams go on."""

from __future__ import annotations

import socket
import time

from misotts.serve.local import RunningServer
from misotts_client import Client
from tests.support.processes import run_folder

PUBLISHED_S = 1.2


def test_streams_go_on_beside_malformed_messages(server: RunningServer, client: Client) -> None:
    name = "misotts_generate_malformed_messages_total"
    before = server.metrics()[name]
    with client.stream("Hello.", max_audio_ms=3_000) as stream:
        next(stream)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            for datagram in (b"", b"12345", b"\xff" * 15, b"x" * 60_000):
                stranger.sendto(datagram, f"{run_folder(server)}/acknowledge")
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(f"{run_folder(server)}/control")
            stranger.sendall(b"\x00\xff\n{}\n[]\n" + b'{"stage": "decode"}\n' + b'{"stage": "prompt", "report": 7}')
        assert list(stream)[-1].finish == "length"
    time.sleep(PUBLISHED_S)
    assert server.metrics()[name] == before + 4
    assert server.is_ready
