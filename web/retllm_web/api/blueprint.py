"""The blueprint of the API's routes, and the checks that run before each of them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, TypeVar

from flask import current_app, request
from flask_openapi.blueprint import APIBlueprint
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from retllm.errors import InvalidInput
from retllm_web.api.spec import ERRORS, SECURITY
from retllm_web.http import body_limits
from retllm_web.http.auth import authenticate, require_csrf_token
from retllm_web.http.errors import invalid
from retllm_web.http.visibility import require_role_of_route, require_visible

Model = TypeVar("Model", bound=BaseModel)

PREFIX = "/api/v1"
STREAM = "application/offset+octet-stream"
"""The media type of parts of large files, which only their route takes."""
_STREAMED = "api.append_part"
_WITH_BODY = ("POST", "PATCH", "PUT")

api = APIBlueprint("api", __name__, url_prefix=PREFIX, abp_security=SECURITY, abp_responses=ERRORS)


@api.before_request
def _before() -> None:
    authenticate()
    require_role_of_route()
    body_limits.restrict(known=True)
    if body_limits.is_large():
        # the token of a session may be in the form
        require_visible()
    require_csrf_token()
    if not body_limits.is_large() and (request.method in _WITH_BODY or request.args):
        # a missing object is reported before any error in the request
        require_visible()
    check_plain(request.args.to_dict(flat=False), "query")
    if request.method in _WITH_BODY:
        _check_body()


def _check_body() -> None:
    if request.mimetype == "multipart/form-data" or (request.mimetype, request.endpoint) == (STREAM, _STREAMED):
        return
    if request.is_json:
        if not request.get_data():
            # many clients send the header with every request
            return
        body_limits.require_few_nodes(request.get_data())
        try:
            # raises 400 for malformed JSON
            body = request.get_json()
            check_plain(body, "")
        except RecursionError as error:
            raise BadRequest() from error
        if not isinstance(body, dict):
            raise InvalidInput(
                "The body must be a JSON object.", fields=[{"field": "body", "message": "not an object"}]
            )
    elif request.mimetype or request.stream.read(1):
        # read no further: the body may be long
        raise UnsupportedMediaType("Send application/json or multipart/form-data.")


def check_plain(value: Any, where: str) -> None:
    """Reject the character NUL, which PostgreSQL cannot store.

    Raises:
        InvalidInput: a text or a field name contains it.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInput(
                "A text cannot contain the character NUL.",
                fields=[{"field": where, "message": "contains the character NUL"}],
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_plain(key, where)
            check_plain(inner, f"{where}.{key}".strip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_plain(inner, f"{where}.{index}".strip("."))


def strictly(model: type[Model], raw: bytes | str) -> Model:
    """Validate ``raw`` as ``model`` without type coercion: "3" and true are not numbers, but 2.0 is an integer.

    Raises:
        InvalidInput: it is not JSON, or not valid; ``detail.fields`` names each invalid field.
    """
    try:
        return model.model_validate_json(json.dumps(json.loads(raw, parse_float=_number)), strict=True)
    except ValidationError as error:
        raise invalid(error) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            "The query is not valid JSON.", fields=[{"field": "query", "message": "not JSON"}]
        ) from error


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number


def refuse_other_parts(*, form: set[str], files: set[str], once: bool = False) -> None:
    """Reject a form with unknown parts or, with ``once``, with repeated parts.

    Raises:
        InvalidInput: there is such a part.
    """
    # pages may send their CSRF token as a part
    known = form | {current_app.config["WTF_CSRF_FIELD_NAME"]}
    problem = "unknown part"
    wrong = [name for name in request.form if name not in known] + [name for name in request.files if name not in files]
    if wrong and wrong[0] in files:
        problem = "a file part without a file name"
    if not wrong and once:
        problem = "sent more than once"
        counts = Counter(name for parts in (request.form, request.files) for name, _ in parts.items(multi=True))
        wrong = [name for name, count in counts.items() if count > 1]
    if wrong:
        raise InvalidInput(f"{wrong[0]}: {problem}.", fields=[{"field": name, "message": problem} for name in wrong])
