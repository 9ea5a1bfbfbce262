"""The blueprint that every route of the API hangs on, and what is checked before any of them."""

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
from retllm_web.http.auth import authenticate
from retllm_web.http.errors import invalid
from retllm_web.http.visibility import require_visible

Model = TypeVar("Model", bound=BaseModel)

PREFIX = "/api/v1"
# a body of JSON is read whole; files come as multipart, which is streamed
_JSON_BYTES = 32 << 20
_WITH_BODY = ("POST", "PATCH", "PUT")

api = APIBlueprint("api", __name__, url_prefix=PREFIX, abp_security=SECURITY, abp_responses=ERRORS)


@api.before_request
def _before() -> None:
    authenticate()
    if request.method in _WITH_BODY or request.args:
        # nothing is wrong with a request for what is not there but that it is not there
        require_visible()
    check_plain(request.args.to_dict(flat=False), "query")
    if request.method in _WITH_BODY:
        _check_body()


def _check_body() -> None:
    if request.mimetype == "multipart/form-data":
        return
    if request.is_json:
        request.max_content_length = min(_JSON_BYTES, request.max_content_length or _JSON_BYTES)
        try:
            # malformed JSON ends here with 400
            body = request.get_json()
            check_plain(body, "")
        except RecursionError as error:
            raise BadRequest() from error
        if not isinstance(body, dict):
            raise InvalidInput("The body is a JSON object.", fields=[{"field": "body", "message": "not an object"}])
    elif request.mimetype or request.stream.read(1):
        # nothing more of it is read: it may be long
        raise UnsupportedMediaType("Send application/json or multipart/form-data.")


def check_plain(value: Any, where: str) -> None:
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
            check_plain(key, where)
            check_plain(inner, f"{where}.{key}".strip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_plain(inner, f"{where}.{index}".strip("."))


def strictly(model: type[Model], raw: bytes | str) -> Model:
    """``raw`` as ``model``, without bending types: "3" and true are no numbers. 2.0 is an integer, as JSON has it.

    Raises:
        InvalidInput: it is no JSON, or does not fit; each wrong field is named.
    """
    try:
        return model.model_validate_json(json.dumps(json.loads(raw, parse_float=_number)), strict=True)
    except ValidationError as error:
        raise invalid(error) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput("The query is no JSON.", fields=[{"field": "query", "message": "no JSON"}]) from error


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number


def refuse_other_parts(*, form: set[str], files: set[str], once: bool = False) -> None:
    """Refuse a form with parts that this route does not know, or with one of them twice.

    Raises:
        InvalidInput: there is such a part.
    """
    # pages may send their CSRF token as a part
    known = form | {current_app.config["WTF_CSRF_FIELD_NAME"]}
    problem = "unknown part"
    wrong = [name for name in request.form if name not in known] + [name for name in request.files if name not in files]
    if wrong and wrong[0] in files:
        problem = "a file, and sent without a file name"
    if not wrong and once:
        problem = "sent more than once"
        counts = Counter(name for parts in (request.form, request.files) for name, _ in parts.items(multi=True))
        wrong = [name for name, count in counts.items() if count > 1]
    if wrong:
        raise InvalidInput(f"{wrong[0]}: {problem}.", fields=[{"field": name, "message": problem} for name in wrong])
