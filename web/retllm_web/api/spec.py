"""The description of the API: the error model, the security scheme, and the document itself."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from flask import Response as FlaskResponse
from flask import jsonify
from flask_openapi.models.data_type import DataType
from flask_openapi.models.info import Info
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.response import Response
from flask_openapi.models.schema import Schema
from flask_openapi.models.security_scheme import SecurityScheme
from flask_openapi.models.tag import Tag
from flask_openapi.openapi import OpenAPI
from pydantic import BaseModel, ConfigDict, Field

# 3.1 is what generators of clients and tests read today
OPENAPI_VERSION = "3.1.0"
DOCUMENT_PATH = "/api/v1/openapi.json"

INFO = Info(
    title="retllm-platform",
    version=version("retllm-platform"),
    description=(
        "Training-free search over pictures and texts. Authenticate with a bearer token. "
        "Every error has the shape {error: {code, message, detail}}; lists are paged by the key `after`."
    ),
)
SECURITY_SCHEMES: dict[str, SecurityScheme | dict[str, Any]] = {
    "bearer": SecurityScheme(
        type="http",
        scheme="bearer",
        description=(
            "A token, made with `retllm token create` or on the account's page. It does no more than its scope: read "
            "(look and export), search (also ask and review), change (also make collections, upload, index, delete "
            "items), manage (all that its account may). 403 with `detail.scope` names the scope that was needed."
        ),
    )
}
SECURITY: list[dict[str, list[str]]] = [{"bearer": []}]


class Error(BaseModel):
    """What went wrong."""

    code: str = Field(description="stable name for programs")
    message: str = Field(description="one sentence for people")
    detail: dict[str, Any] = Field(description="more about it; `fields` lists each wrong field with a message")


class ErrorBody(BaseModel):
    """The one shape of every error."""

    model_config = ConfigDict(title="ErrorBody")

    error: Error


BINARY = Schema(type=DataType.STRING, format="binary")

# what any route may answer; routes add 404, 409 and 413 where they apply
ERRORS: dict[Any, Any] = {
    400: ErrorBody,
    401: ErrorBody,
    403: ErrorBody,
    404: ErrorBody,
    413: ErrorBody,
    415: ErrorBody,
    422: ErrorBody,
    429: ErrorBody,
    500: ErrorBody,
    503: ErrorBody,
}


# any stored picture, as an attachment; its media type is in the header
PICTURE = Response(description="The picture as it came.", content={"image/*": MediaType(schema=BINARY)})
# what may be shown: encoded here
RENDITION = Response(description="The picture to be shown.", content={"image/webp": MediaType(schema=BINARY)})


def tags(name: str) -> list[Tag | dict[str, Any]]:
    """The group of a route in the document."""
    return [Tag(name=name)]


def serve(app: OpenAPI) -> None:
    """Serve the document; it tells nothing secret and needs no account."""
    app.openapi_version = OPENAPI_VERSION
    # made here and not by the first request, which others could run beside
    document = app.api_doc

    @app.route(DOCUMENT_PATH, methods=["GET"], endpoint="openapi_document")
    def openapi_document() -> FlaskResponse:
        return jsonify(document)
