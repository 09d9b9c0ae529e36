"""A network connection that goes silent without being closed."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def proxy(url: str, swallow: threading.Event) -> Iterator[str]:
    """Yield the address of a proxy that forwards one connection to `url` until `swallow` is set; then it drops all data
    and closes nothing."""
    host, port = url.split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def forward() -> None:
        near, far = listener.accept()[0], socket.create_connection((host, int(port)))
        other = {near: far, far: near}
        with near, far:
            while not done.is_set():
                for sender in select.select([near, far], [], [], 0.02)[0]:
                    data = sender.recv(65536)
                    if not swallow.is_set():
                        other[sender].sendall(data)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        done.set()
        listener.close()
