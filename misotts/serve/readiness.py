"""The probes on the readiness port. Triton's own readiness stays green when a stage is dead."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Readiness:
    """Answers GET /ready with 200 or 503, and GET /live with 200. The body of both is the server's state as JSON."""

    def __init__(self, host: str, port: int, state: Callable[[], tuple[bool, dict[str, Any]]]) -> None:
        """`state()` returns True if the server takes requests, and details."""

        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # a silent connection must not hold a thread

            def do_GET(self) -> None:
                ready, details = state()
                if self.path not in ("/ready", "/live"):
                    self.send_error(404, "the paths are /ready and /live")
                    return
                body = json.dumps({"ready": ready, **details}).encode() + b"\n"
                self.send_response(200 if ready or self.path == "/live" else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: probes come every few seconds."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        threading.Thread(target=self._server.serve_forever, name="readiness", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answers(url: str) -> bool:
    """Return True if a GET of `url` succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:  # URLError and HTTPError are too
        return False
