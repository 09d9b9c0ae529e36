"""A program in place of tritonserver and its stages: they are ready at once and do nothing.

FAKE_TRITON_TCP=1 makes it listen on a TCP port too.
"""

import os
import socket
import threading
import time

from misotts.serve.settings import STAGES, StageSettings
from misotts.serve.stage.link import LauncherLink


def answer(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        connection.close()


def main() -> None:
    settings = StageSettings.load()
    listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for listener, path in zip(listeners, (settings.triton_socket, settings.metrics_socket), strict=True):
        listener.bind(path)
        listener.listen()
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
    if os.environ.get("FAKE_TRITON_TCP"):
        listeners.append(socket.create_server(("127.0.0.1", 0)))
    links = [LauncherLink(settings.control_socket, stage) for stage in STAGES]
    for link in links:
        link.start_heartbeat(lambda: {"progress": time.monotonic(), "waiting": 0, "streams": 0})
        link.ready()
    threading.Event().wait()


if __name__ == "__main__":
    main()
