"""`GET /v1/models`: the models in OpenAI's form, and what this server offers."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from misotts_client.contract import MODEL_NAME, SAMPLE_RATE
from misotts_client.speech import AUDIBLE
from misotts_gateway.audio.formats import FORMATS
from misotts_gateway.http.errors import HttpError
from misotts_gateway.http.service import Service

NAMES = (MODEL_NAME, "tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""All of them are the one model that is served; a request may name any other, too."""


class Models:
    """Answers requests for models."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def listed(self, request: Request) -> Response:
        """Return all models."""
        models = [self._model(name, request) for name in NAMES]
        return JSONResponse({"object": "list", "data": models})

    async def one(self, request: Request) -> Response:
        """Return one model.

        Raises:
            HttpError: there is none of this name.
        """
        name = request.path_params["name"]
        if name not in NAMES:
            raise HttpError(404, f"the models are {', '.join(NAMES)}", param="model", code="model_not_found")
        return JSONResponse(self._model(name, request))

    def _model(self, name: str, request: Request) -> dict[str, Any]:
        service = self._service
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "misotts-serving",
            "sample_rate": SAMPLE_RATE,
            "audible_level": AUDIBLE,
            "limits": {"input": service.text.max_input, "body": service.max_body},
            "formats": {
                format_name: {"rates": format.rates, "default_rate": format.default_rate}
                for format_name, format in FORMATS.items()
                if not format.extra
            },
            "normalization": service.text.normalizer is not None,
            "uploads": service.may_upload(request.state.caller),
            "voices": [voice["id"] for voice in service.voices.listed(request.state.caller.tenant)],
            "versions": {"misotts-gateway": version("misotts-gateway"), "misotts-client": version("misotts-client")},
        }
