"""Behind reverse proxies: address, scheme and host are the browser's, and cannot be forged."""

from __future__ import annotations

import pytest
from flask import jsonify, request
from flask_openapi import OpenAPI

from retllm.settings import Settings
from retllm_web.app import create_app

FORGED = {
    "X-Forwarded-For": "203.0.113.5, 198.51.100.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "search.example",
    "X-Forwarded-Prefix": "/elsewhere",
}


def _request_values(settings: Settings, proxies: int) -> dict[str, str]:
    app: OpenAPI = create_app(settings.model_copy(update={"proxies": proxies}))

    @app.get("/told")
    def told() -> object:
        return jsonify(address=request.remote_addr, scheme=request.scheme, host=request.host, root=request.root_path)

    answer = app.test_client().get("/told", headers=FORGED)
    found: dict[str, str] = answer.json
    return found


@pytest.mark.parametrize(
    ("proxies", "expected"),
    [
        (0, {"address": "127.0.0.1", "scheme": "http", "host": "localhost", "root": ""}),
        # values before the last proxy may be forged
        (1, {"address": "198.51.100.7", "scheme": "https", "host": "search.example", "root": ""}),
        (2, {"address": "203.0.113.5", "scheme": "http", "host": "localhost", "root": ""}),
    ],
)
def test_forwarded_headers_are_trusted_for_the_configured_number_of_proxies(
    settings: Settings, proxies: int, expected: dict[str, str]
) -> None:
    assert _request_values(settings, proxies) == expected
