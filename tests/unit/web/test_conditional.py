"""The ETag of a live page fragment."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from flask import Flask, g

from retllm.db.enums import Role, TokenScope
from retllm.db.tables import User
from retllm.identity.actor import Actor
from retllm_web.http import conditional

ADA, BOB = UUID(int=1), UUID(int=2)


def _get_fragment(
    stamp: tuple[object, ...], known: str | None = None, who: UUID = ADA, role: Role = Role.EDITOR
) -> Any:
    app = Flask(__name__)

    @app.get("/piece")
    def piece() -> Any:
        g.actor = Actor(User(id=who, name="somebody", role=role), TokenScope.MANAGE)
        return conditional.unchanged(*stamp) or "the piece"

    return app.test_client().get("/piece", headers={"If-None-Match": known} if known else {})


def test_an_unchanged_fragment_returns_304() -> None:
    first = _get_fragment(("running", 3, None))
    assert (first.status_code, first.text) == (200, "the piece")
    again = _get_fragment(("running", 3, None), first.headers["ETag"])
    assert (again.status_code, again.get_data()) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]


@pytest.mark.parametrize("stamp", [("running", 4, None), ("done", 3, None), ("running", 3), ("running", 3, 0)])
def test_a_changed_fragment_is_sent_with_a_new_etag(stamp: tuple[object, ...]) -> None:
    known = _get_fragment(("running", 3, None)).headers["ETag"]
    answer = _get_fragment(stamp, known)
    assert (answer.status_code, answer.text) == (200, "the piece")
    assert answer.headers["ETag"] != known


@pytest.mark.parametrize(("who", "role"), [(BOB, Role.EDITOR), (ADA, Role.VIEWER)])
def test_an_etag_is_not_valid_for_another_account_or_role(who: UUID, role: Role) -> None:
    known = _get_fragment(("running",)).headers["ETag"]
    assert _get_fragment(("running",), known, who, role).status_code == 200
