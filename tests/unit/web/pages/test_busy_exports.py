"""The pages say that an export has to wait."""

from __future__ import annotations

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.uploads import begin

from retllm_web.http import long_answers


@pytest.mark.parametrize("path", ["/jobs/export?rows=results", "/people/audit.csv", "/uploads/{}/files.csv"])
def test_a_page_says_that_other_exports_are_being_made(app: OpenAPI, root: Caller, path: str) -> None:
    long_answers.install(app, 8)
    visitor = Visitor(app.test_client())
    assert visitor.log_in("root").status == 200
    collection = root.post("/collections", json={"name": "Exported"}).json["id"]
    address = path.format(begin(root, str(collection)))
    places = app.extensions["retllm_exports"]
    while places.take(root.user.id):
        pass
    answer = visitor.client.get(address)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "Other exports are still being made: try again in a few seconds." in answer.text
    places.leave(root.user.id)
    assert visitor.client.get(address).status_code == 200
