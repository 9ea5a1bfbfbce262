"""Every route of the API reports errors in one shape."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from flask_openapi.openapi import OpenAPI
from tests.unit.web.conftest import Caller

from retllm.errors import Conflict, InvalidInput, RetllmError
from retllm_web.http.errors import wants_json

UNKNOWN_ID = "018f0000-0000-7000-8000-000000000000"
OPEN = {"/api/v1/openapi.json"}


def _routes(app: OpenAPI, **keys: str) -> list[tuple[str, str]]:
    """Return every method and address of the API; missing keys become the key of no object."""
    return sorted(
        (method, re.sub(r"<\w+:(\w+)>", lambda name: keys.get(name[1], UNKNOWN_ID), rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    )


def _check_error(answer: Any, status: int | None = None) -> dict[str, Any]:
    assert answer.mimetype == "application/json"
    assert set(answer.json) == {"error"}
    error: dict[str, Any] = answer.json["error"]
    assert set(error) == {"code", "message", "detail"}
    assert re.fullmatch(r"[a-z_]+", error["code"])
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["detail"], dict)
    assert status is None or answer.status_code == status
    return error


def test_every_route_requires_authentication(app: OpenAPI, client: FlaskClient) -> None:
    routes = [one for one in _routes(app) if one[1] not in OPEN]
    assert len(routes) >= 22
    for number, (method, path) in enumerate(routes):
        # invalid tokens are limited per address
        where = {"REMOTE_ADDR": f"192.0.2.{number}"}
        for headers in ({}, {"Authorization": "Bearer rlm_wrong"}):
            error = _check_error(
                client.open(path, method=method, headers=headers, json={}, environ_overrides=where), 401
            )
            assert error["code"] == "unauthorized", (method, path)


def test_every_route_returns_404_for_unknown_ids(app: OpenAPI, root: Caller) -> None:
    bodies = {"/items": {"items": [{"text": "a"}]}, "/searches": {"text": "a"}}
    for method, path in _routes(app, queue="embed"):
        if UNKNOWN_ID not in path:
            continue
        body = bodies.get(path[path.rindex("/") :], {}) if method != "GET" else None
        answer = getattr(root, method.lower())(path.removeprefix("/api/v1"), json=body)
        assert _check_error(answer, 404)["code"] == "not_found", (method, path)


def test_every_route_rejects_unsupported_methods_with_405(app: OpenAPI, ada: Caller) -> None:
    by_path: dict[str, set[str]] = {}
    for method, path in _routes(app):
        by_path.setdefault(path, set()).add(method)
    for path, methods in by_path.items():
        for method in {"GET", "POST", "PATCH", "PUT", "DELETE"} - methods:
            answer = getattr(ada, method.lower())(path.removeprefix("/api/v1"))
            assert _check_error(answer, 405)["code"] == "method_not_allowed", (method, path)
            assert methods <= set(re.split(r",\s*", answer.headers["Allow"]))


def test_every_route_with_a_json_body_rejects_invalid_json_and_other_content_types(app: OpenAPI, root: Caller) -> None:
    collection = root.post("/collections", json={"name": "c"}).json["id"]
    job = root.post(f"/collections/{collection}/items", json={"items": [{"text": "a"}]}).json["job_id"]
    upload = root.post(f"/collections/{collection}/uploads", json={}).json["id"]
    item = root.get(f"/collections/{collection}/items").json["items"][0]["id"]
    known = {"collection_id": collection, "job_id": job, "search_id": job, "upload_id": upload, "queue": "embed"}
    for method, path in _routes(app, **known, item_id=item):
        # the bodies of these are files
        if method in ("POST", "PATCH", "PUT") and not re.search(f"/uploads/{upload}/(files|tus)", path):
            send = getattr(root, method.lower())
            short = path.removeprefix("/api/v1")
            _check_error(send(short, data="{", content_type="application/json"), 400)
            _check_error(send(short, data="[]", content_type="application/json"), 422)
            _check_error(send(short, data="<a/>", content_type="text/xml"), 415)


def test_no_body_is_none_whatever_header_comes_with_it(root: Caller) -> None:
    collection = root.post("/collections", json={"name": "c"}).json["id"]
    root.post(f"/collections/{collection}/items", json={"items": [{"text": "a"}]})
    # many clients send the header with every request
    bare = {"data": "", "content_type": "application/json"}
    job = root.post(f"/collections/{collection}/index", **bare)
    assert job.status_code == 202, job.json
    assert root.post(f"/jobs/{job.json['id']}/cancel", **bare).status_code == 200
    answer = root.post("/collections", **bare)
    assert _check_error(answer, 422)["message"]


@pytest.mark.parametrize("path", ["/api/", "/api/v1", "/api/v1/nothing", "/api/v2/me", "/api/v1/items/not-a-key"])
def test_an_unknown_path_returns_404_as_json(client: FlaskClient, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        _check_error(client.open(path, method=method), 404)


@pytest.mark.parametrize("path", ["collections/holiday/items", "jobs/x"])
def test_what_is_no_id_is_named_with_the_list_of_ids(client: FlaskClient, path: str) -> None:
    listed, given = path.split("/")[:2]
    message = f"'{given}' is no id: GET /api/v1/{listed} lists ids."
    assert _check_error(client.get(f"/api/v1/{path}"), 404)["message"] == message


def test_an_unhandled_exception_gives_500_without_its_message(own_app: OpenAPI) -> None:
    @own_app.get("/api/crash")
    def crash() -> str:
        raise ValueError("password=hunter2")

    answer = own_app.test_client().get("/api/crash", headers={"X-Request-ID": "mine"})
    assert _check_error(answer, 500)["code"] == "internal"
    assert "hunter2" not in answer.text
    assert answer.headers["X-Request-ID"] == "mine"


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (Conflict("so it is", job="x"), 409, "conflict"),
        (RetllmError("inside"), 500, "internal"),
        (sa.exc.OperationalError("SELECT secret", {}, Exception("down")), 503, "stack"),
        (sa.exc.OperationalError("UPDATE secret", {}, psycopg.errors.DeadlockDetected("dead")), 503, "database_busy"),
        (sa.exc.OperationalError("secret", {}, psycopg.errors.SerializationFailure("no")), 503, "database_busy"),
        (sa.exc.TimeoutError("pool"), 503, "stack"),
        (sa.exc.InterfaceError("SELECT 1", {}, Exception("lost"), connection_invalidated=True), 503, "stack"),
        (sa.exc.ProgrammingError("SELECT secret", {}, Exception("no such column")), 500, "internal"),
    ],
)
def test_exceptions_map_to_status_and_code_without_secrets(
    own_app: OpenAPI, raised: Exception, status: int, code: str
) -> None:
    @own_app.get("/api/raise")
    def fail() -> str:
        raise raised

    answer = own_app.test_client().get("/api/raise")
    assert _check_error(answer, status)["code"] == code
    assert "secret" not in answer.text
    assert answer.headers.get("Retry-After") == ("1" if code == "database_busy" else None)


def test_the_field_of_an_invalid_input_is_named_in_the_detail(own_app: OpenAPI) -> None:
    @own_app.get("/api/raise")
    def fail() -> str:
        raise InvalidInput("k is too large", field="k")

    error = _check_error(own_app.test_client().get("/api/raise"), 422)
    assert error["detail"]["fields"] == [{"field": "k", "message": "k is too large"}]


def test_browsers_get_html_errors_and_api_clients_get_json_errors(app: OpenAPI, client: FlaskClient) -> None:
    page = client.get("/nowhere", headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert page.mimetype in ("text/html", "text/plain")
    _check_error(client.get("/nowhere", headers={"Accept": "application/json"}), 404)
    cases = {
        ("/nowhere", "text/html,application/xhtml+xml,*/*;q=0.8"): False,
        ("/nowhere", "*/*"): False,
        ("/nowhere", "application/json"): True,
        ("/api/v1/me", "text/html"): True,
        ("/readyz", "text/html"): True,
    }
    for (path, accept), wanted in cases.items():
        with app.test_request_context(path, headers={"Accept": accept}) as context:
            assert wants_json(context.request) is wanted, (path, accept)


def test_the_openapi_document_describes_exactly_the_existing_routes(app: OpenAPI, client: FlaskClient) -> None:
    document = client.get("/api/v1/openapi.json").json
    assert document is not None
    described = {
        (method.upper(), re.sub(r"\{[^}]+\}", UNKNOWN_ID, path))
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert described == {one for one in _routes(app) if one[1] not in OPEN}


def test_the_openapi_document_describes_authentication_errors_and_forms(client: FlaskClient) -> None:
    document = client.get("/api/v1/openapi.json").json
    assert document is not None
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    names: list[str] = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names.append(operation["operationId"])
            assert operation["security"] == [{"bearer": []}], (method, path)
            assert operation["summary"], (method, path)
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (method, path, status)
            assert {"401", "422"} <= set(operation["responses"])
    assert len(names) == len(set(names))
    upload = document["paths"]["/api/v1/collections/{collection_id}/items"]["post"]["requestBody"]["content"]
    assert set(upload) == {"multipart/form-data", "application/json"}
    assert upload["multipart/form-data"]["schema"]["properties"]["file"]["items"]["format"] == "binary"
    search = document["paths"]["/api/v1/collections/{collection_id}/searches"]["post"]
    assert set(search["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert [one["name"] for one in search["parameters"] if one["in"] == "header"] == ["Idempotency-Key"]


def test_every_schema_reference_in_the_openapi_document_exists(client: FlaskClient) -> None:
    answer = client.get("/api/v1/openapi.json")
    assert answer.json is not None
    schemas = set(answer.json["components"]["schemas"])
    wanted = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
    assert wanted
    assert wanted <= schemas
