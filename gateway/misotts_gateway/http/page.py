"""The page at `/`: a playground. Its files are plain HTML, CSS and JavaScript with relative addresses."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from misotts_gateway.http.service import Service

FOLDER = Path(__file__).parents[1] / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; connect-src 'self' blob:; media-src 'self' blob:; "
    "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def routes(_: Service) -> list[BaseRoute]:
    """Return a route for each file; they are read once."""
    files = {"/" if path.name == "index.html" else f"/page/{path.name}": path for path in sorted(FOLDER.iterdir())}
    return [_route(address, path) for address, path in files.items() if path.suffix in _TYPES]


def _route(address: str, path: Path) -> Route:
    content, media_type = path.read_bytes(), _TYPES[path.suffix]

    async def get(_: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=f"{media_type}; charset=utf-8")

    return Route(address, get, methods=["GET"])
