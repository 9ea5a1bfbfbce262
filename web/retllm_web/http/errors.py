"""Error responses of one shape: JSON for the API, a page for browsers (design: API)."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from flask import Flask, Response, current_app, g, jsonify, make_response, redirect, render_template
from flask import request as current_request
from flask.wrappers import Request
from flask_wtf.csrf import CSRFError
from jinja2 import TemplateError
from psycopg.errors import ForeignKeyViolation
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from retllm.db.session import was_undone
from retllm.errors import Busy, DatabaseBusy, InvalidInput, NotFound, RetllmError, StackError

log = structlog.get_logger(__name__)

_JSON_PATHS = ("/api/", "/healthz", "/readyz", "/metrics")
_CODES = {404: "not_found", 413: "too_large", 401: "unauthorized", 403: "forbidden", 409: "conflict", 500: "internal"}
_MESSAGES = {
    400: "The request is malformed.",
    404: "There is nothing at this address.",
}
# what is listed, and what should be the id of one
_OF_ONE = re.compile(r"/api/v1/(collections|jobs)/([^/]+)")
_UNEXPECTED = "The server failed to handle the request. See its log for the request id."


def wants_json(request: Request) -> bool:
    """Return whether errors of this request are JSON: for the API, and for clients that prefer JSON."""
    if request.path.startswith(_JSON_PATHS):
        return True
    best = request.accept_mimetypes.best_match(["text/html", "application/json"])
    return best == "application/json" and request.accept_mimetypes[best] > request.accept_mimetypes["text/html"]


def install(app: Flask) -> None:
    """Register the error handlers on ``app``."""
    app.register_error_handler(RetllmError, _platform_error)
    app.register_error_handler(CSRFError, forged)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(sa.exc.OperationalError, _database)
    app.register_error_handler(sa.exc.TimeoutError, _database)
    app.register_error_handler(sa.exc.DBAPIError, _driver_error)
    app.register_error_handler(sa.exc.NoResultFound, _deleted_meanwhile)
    app.register_error_handler(Exception, _unexpected)


def invalid(error: ValidationError) -> InvalidInput:
    """Return the error for a pydantic error; ``detail.fields`` lists each invalid field with a message."""
    fields = [
        {"field": ".".join(str(part) for part in entry["loc"]) or "body", "message": entry["msg"]}
        for entry in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    first = fields[0]
    return InvalidInput(f"{first['field']}: {first['message']}", fields=fields)


def raise_invalid(error: ValidationError) -> None:
    """Raise the error for a pydantic error; callback of flask-openapi.

    Raises:
        InvalidInput: always.
    """
    raise invalid(error) from error


def respond(status: int, code: str, message: str, detail: dict[str, Any] | None = None) -> Response:
    """Return an error response, as JSON or as a page."""
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
    except TemplateError as error:  # an app without pages, or a broken error page
        log.warning("no_error_page", reason=repr(error))
        return Response(f"{status} {message}\n", mimetype="text/plain")


def _platform_error(error: RetllmError) -> Response:
    if error.http_status >= 500 and not isinstance(error, Busy):
        log.error("request_failed", code=error.code, exc_info=error)
    response = respond(error.http_status, error.code, error.message, _detail(error))
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if "retry_after" in error.detail:
        response.headers["Retry-After"] = str(error.detail["retry_after"])
    return response


def _detail(error: RetllmError) -> dict[str, Any]:
    """Return the error's detail, with every named field listed in ``fields`` with a message."""
    detail = dict(error.detail)
    if not isinstance(error, InvalidInput):
        return detail
    named = detail.pop("fields", None) or ([{"field": detail["field"]}] if "field" in detail else [])
    return detail | {"fields": [{"message": error.message, **entry} for entry in named]}


def forged(error: CSRFError) -> Response:
    """Return the response to a form without the CSRF token of its session."""
    return respond(403, "csrf", f"{error.description} Load the page again; programs use a bearer token instead.")


def _http(error: HTTPException) -> Any:
    status = error.code
    if error.response is not None or status is None or status < 400:
        return error  # a redirect, or a ready response
    if status == HTTPStatus.METHOD_NOT_ALLOWED and (address := _parent_page()):
        return redirect(address)
    code = _CODES.get(status) or error.name.lower().replace(" ", "_")
    message = (_no_id() if status == HTTPStatus.NOT_FOUND else None) or _MESSAGES.get(status)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        message = _too_large()
    response = respond(status, code, message or error.description or error.name)
    for name, value in error.get_headers():
        # such as Allow of 405 and Retry-After of 429
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _too_large() -> str:
    size, parts = current_request.max_content_length or 0, current_request.max_form_parts or 0
    return f"The request is larger than this address takes: {size >> 10:,} KiB, and {parts:,} parts of a form."


def _no_id() -> str | None:
    """Return what is wrong with an address of the API that has something else where an id belongs."""
    found = _OF_ONE.match(current_request.path)
    if found is None:
        return None
    listed, given = found.groups()
    try:
        UUID(given)
    except ValueError:
        return f"{given!r} is no id: GET /api/v1/{listed} lists ids."
    return None


def _parent_page() -> str | None:
    """Return the nearest parent page of an address that accepts only POST; a reload or a bookmark may lead there."""
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
        return _platform_error(DatabaseBusy(retry_after=1))
    log.error("database_unavailable", exc_info=error)
    return respond(503, StackError.code, "The database is temporarily unavailable. Try again in a moment.")


def _driver_error(error: sa.exc.DBAPIError) -> Response:
    """Report a broken connection, which has several classes in the driver, as 503, and any other error as 500."""
    if isinstance(error.orig, ForeignKeyViolation):
        return _deleted_meanwhile(error)
    return _database(error) if error.connection_invalidated else _unexpected(error)


def _deleted_meanwhile(error: Exception) -> Response:
    """Report a row that the request has read before, and that another request has deleted since then, as 404."""
    log.info("deleted_meanwhile", exc_info=error)
    return respond(404, NotFound.code, "It was deleted in the meantime.")


def _unexpected(error: Exception) -> Response:
    log.error("request_crashed", exc_info=error)
    return respond(500, RetllmError.code, _UNEXPECTED)
