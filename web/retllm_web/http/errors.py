"""Every error leaves in one shape: JSON for the API, a page for browsers (design: API)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
import structlog
from flask import Flask, Response, current_app, g, jsonify, make_response, redirect, render_template
from flask import request as current_request
from flask.wrappers import Request
from flask_wtf.csrf import CSRFError
from jinja2 import TemplateError
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from retllm.db.session import was_undone
from retllm.errors import DatabaseBusy, InvalidInput, RetllmError, StackError

log = structlog.get_logger(__name__)

_JSON_PATHS = ("/api/", "/healthz", "/readyz", "/metrics")
_CODES = {404: "not_found", 413: "too_large", 401: "unauthorized", 403: "forbidden", 409: "conflict", 500: "internal"}
_MESSAGES = {
    400: "The request can't be read.",
    404: "There is nothing at this address.",
    413: "The upload is larger than this server accepts.",
}
_UNEXPECTED = "Something went wrong on the server. The log has more under this request's id."


def wants_json(request: Request) -> bool:
    """Whether errors of this request are JSON: all of the API's, and those of programs that ask for it."""
    if request.path.startswith(_JSON_PATHS):
        return True
    best = request.accept_mimetypes.best_match(["text/html", "application/json"])
    return best == "application/json" and request.accept_mimetypes[best] > request.accept_mimetypes["text/html"]


def install(app: Flask) -> None:
    """Register the handlers on ``app``."""
    app.register_error_handler(RetllmError, _ours)
    app.register_error_handler(CSRFError, forged)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(sa.exc.OperationalError, _database)
    app.register_error_handler(sa.exc.TimeoutError, _database)
    app.register_error_handler(sa.exc.DBAPIError, _of_the_driver)
    app.register_error_handler(Exception, _unexpected)


def invalid(error: ValidationError) -> InvalidInput:
    """The platform's error for what pydantic found: ``detail.fields`` names each field and what is wrong."""
    fields = [
        {"field": ".".join(str(part) for part in one["loc"]) or "body", "message": one["msg"]}
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    first = fields[0]
    return InvalidInput(f"{first['field']}: {first['message']}", fields=fields)


def raise_invalid(error: ValidationError) -> None:
    """Callback of flask-openapi: raise, so that the one handler answers.

    Raises:
        InvalidInput: always.
    """
    raise invalid(error) from error


def respond(status: int, code: str, message: str, detail: dict[str, Any] | None = None) -> Response:
    """An error response in the shape that this request wants."""
    if wants_json(current_request):
        body = {"error": {"code": code, "message": message, "detail": detail or {}}}
        response = jsonify(body)
    else:
        response = make_response(_page(status, code, message))
    response.status_code = status
    return response


def _page(status: int, code: str, message: str) -> str | Response:
    try:
        return render_template(
            "errors.html", status=status, code=code, message=message, request_id=g.get("request_id", "")
        )
    except TemplateError as error:  # an app without pages, or an error page with an error
        log.warning("no_error_page", reason=repr(error))
        return Response(f"{status} {message}\n", mimetype="text/plain")


def _ours(error: RetllmError) -> Response:
    if error.http_status >= 500:
        log.error("request_failed", code=error.code, exc_info=error)
    response = respond(error.http_status, error.code, error.message, _detail(error))
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if "retry_after" in error.detail:
        response.headers["Retry-After"] = str(error.detail["retry_after"])
    return response


def _detail(error: RetllmError) -> dict[str, Any]:
    """The error's detail; wherever a field is named, in ``fields``, each with its message."""
    detail = dict(error.detail)
    if not isinstance(error, InvalidInput):
        return detail
    named = detail.pop("fields", None) or ([{"field": detail["field"]}] if "field" in detail else [])
    return detail | {"fields": [{"message": error.message, **one} for one in named]}


def forged(error: CSRFError) -> Response:
    """The answer to a form that does not carry the token of its session."""
    return respond(403, "csrf", f"{error.description} Load the page again; programs use a bearer token instead.")


def _http(error: HTTPException) -> Any:
    status = error.code
    if error.response is not None or status is None or status < 400:
        return error  # a redirect, or a response that was made elsewhere
    if status == HTTPStatus.METHOD_NOT_ALLOWED and (address := _page_above()):
        return redirect(address)
    code = _CODES.get(status) or error.name.lower().replace(" ", "_")
    response = respond(status, code, _MESSAGES.get(status) or error.description or error.name)
    for name, value in error.get_headers():
        # Allow of 405, Retry-After of 429, and the like
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _page_above() -> str | None:
    """The page above an address that only takes forms: a reload, a bookmark or a log-in may lead to such a one."""
    if current_request.method not in ("GET", "HEAD") or wants_json(current_request):
        return None
    pages = current_app.create_url_adapter(current_request)
    path = current_request.path.rpartition("/")[0]
    while pages and path:
        if pages.test(path, method="GET"):
            return current_request.root_path + path
        path = path.rpartition("/")[0]
    return None


def _database(error: Exception) -> Response:
    if isinstance(error, sa.exc.DBAPIError) and was_undone(error):
        return _ours(DatabaseBusy(retry_after=1))
    log.error("database_unavailable", exc_info=error)
    return respond(503, StackError.code, "The database can't be reached just now. Try again in a moment.")


def _of_the_driver(error: sa.exc.DBAPIError) -> Response:
    """A connection that broke has many names in the driver; whatever else it complains of is a fault of ours."""
    return _database(error) if error.connection_invalidated else _unexpected(error)


def _unexpected(error: Exception) -> Response:
    log.error("request_crashed", exc_info=error)
    return respond(500, RetllmError.code, _UNEXPECTED)
