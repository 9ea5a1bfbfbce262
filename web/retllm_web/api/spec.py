"""The OpenAPI document of the API, with its error model and security scheme."""

from __future__ import annotations

from functools import cache
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

# client and test generators support 3.1
OPENAPI_VERSION = "3.1.0"
DOCUMENT_PATH = "/api/v1/openapi.json"

INFO = Info(
    title="retllm-platform",
    version=version("retllm-platform"),
    description=(
        "Training-free search over pictures and texts. Authenticate with a bearer token. "
        "Every error has the shape {error: {code, message, detail}}; lists are paged with the parameter `after`."
    ),
)
SECURITY_SCHEMES: dict[str, SecurityScheme | dict[str, Any]] = {
    "bearer": SecurityScheme(
        type="http",
        scheme="bearer",
        description=(
            "A token from `retllm token create` or the account page. Its scope limits what it may do: read (view and "
            "export), search (also search and review), change (also create collections, upload, index, delete items), "
            "manage (everything that the account may do). A 403 with `detail.scope` names the required scope."
        ),
    )
}
SECURITY: list[dict[str, list[str]]] = [{"bearer": []}]


class Error(BaseModel):
    """An error."""

    code: str = Field(description="stable code for programs")
    message: str = Field(description="one sentence for people")
    detail: dict[str, Any] = Field(description="details; `fields` lists each invalid field with a message")


class ErrorBody(BaseModel):
    """The body of every error response."""

    model_config = ConfigDict(title="ErrorBody")

    error: Error

    @classmethod
    @cache
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # is wrapped
        """Return the schema, built once: every route asks for it once for each of its errors, a second in all."""
        return super().model_json_schema(*args, **kwargs)


BINARY = Schema(type=DataType.STRING, format="binary")

# errors of any route; some routes add 409
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


# a stored picture as an attachment; its media type is in the header
PICTURE = Response(description="The original picture.", content={"image/*": MediaType(schema=BINARY)})
# a file of several pictures as an attachment; its media type is in the header
WHOLE = Response(
    description="The whole file.",
    content={kind: MediaType(schema=BINARY) for kind in ("image/tiff", "application/pdf", "video/*")},
)
# a picture for display, encoded by the server
RENDITION = Response(
    description="The picture for display.",
    content={"image/webp": MediaType(schema=BINARY), "image/jpeg": MediaType(schema=BINARY)},
)


def tags(name: str) -> list[Tag | dict[str, Any]]:
    """Return the tags of a route in the document."""
    return [Tag(name=name)]


def serve(app: OpenAPI) -> None:
    """Serve the document; it contains no secrets and needs no account."""
    app.openapi_version = OPENAPI_VERSION
    # built here, because concurrent first requests would race
    document = app.api_doc
    _break_lines(document)

    @app.route(DOCUMENT_PATH, methods=["GET"], endpoint="openapi_document")
    def openapi_document() -> FlaskResponse:
        return jsonify(document)


def _break_lines(part: Any) -> None:
    """Write the lines of docstrings as lines: the library writes them as HTML, which clients of the document show."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(value, dict | list):
            _break_lines(value)
        elif key == "description" and isinstance(value, str):
            part[key] = value.replace("<br/>", "\n")
