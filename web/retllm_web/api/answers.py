"""Responses of the API."""

from __future__ import annotations

from flask import Response
from pydantic import BaseModel


def answer(model: BaseModel, status: int = 200, *, location: str | None = None) -> Response:
    """Return ``model`` as a JSON response."""
    response = Response(model.model_dump_json(), status=status, mimetype="application/json")
    if location is not None:
        response.headers["Location"] = location
    return response


def nothing() -> Response:
    """Return an empty response with status 204."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response
