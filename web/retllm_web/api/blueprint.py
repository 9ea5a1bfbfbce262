"""The blueprint that every route of the API hangs on, and what is checked before any of them."""

from __future__ import annotations

from typing import Any

from flask import request
from flask_openapi.blueprint import APIBlueprint
from werkzeug.exceptions import UnsupportedMediaType

from retllm.errors import InvalidInput
from retllm_web.api.spec import ERRORS, SECURITY
from retllm_web.auth import authenticate

PREFIX = "/api/v1"
# a body of JSON is read whole; files come as multipart, which is streamed
_JSON_BYTES = 32 << 20
_WITH_BODY = ("POST", "PATCH", "PUT")

api = APIBlueprint("api", __name__, url_prefix=PREFIX, abp_security=SECURITY, abp_responses=ERRORS)


@api.before_request
def _before() -> None:
    authenticate()
    _check_plain(request.args.to_dict(flat=False), "query")
    if request.method in _WITH_BODY:
        _check_body()


def _check_body() -> None:
    if request.mimetype == "multipart/form-data":
        return
    if request.is_json:
        request.max_content_length = min(_JSON_BYTES, request.max_content_length or _JSON_BYTES)
        # malformed JSON ends here with 400
        body = request.get_json()
        if not isinstance(body, dict):
            raise InvalidInput("The body is a JSON object.", fields=[{"field": "body", "message": "not an object"}])
        _check_plain(body, "")
    elif request.get_data(cache=True) or request.mimetype:
        raise UnsupportedMediaType("Send application/json or multipart/form-data.")


def _check_plain(value: Any, where: str) -> None:
    """Refuse the character NUL, which no text column of PostgreSQL takes.

    Raises:
        InvalidInput: a text, or the name of a field, holds it.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInput(
                "A text can't hold the character NUL.", fields=[{"field": where, "message": "holds the character NUL"}]
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_plain(key, where)
            _check_plain(inner, f"{where}.{key}".strip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_plain(inner, f"{where}.{index}".strip("."))
