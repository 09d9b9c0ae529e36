"""A truthful readiness, on a port of its own: Triton's stays green when a stage is dead."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Readiness:
    """Answers GET /ready with 200 or 503, and GET /live with 200; both say why in JSON."""

    def __init__(self, host: str, port: int, state: Callable[[], tuple[bool, dict[str, Any]]]) -> None:
        """`state` returns whether the server takes requests, and what to tell beside that."""

        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # a silent connection must not hold a thread

            def do_GET(self) -> None:
                ready, details = state()
                if self.path not in ("/ready", "/live"):
                    self.send_error(404, "there are /ready and /live")
                    return
                body = json.dumps({"ready": ready, **details}).encode() + b"\n"
                self.send_response(200 if ready or self.path == "/live" else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every few seconds: not worth a line each."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        threading.Thread(target=self._server.serve_forever, name="readiness", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
