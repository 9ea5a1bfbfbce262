"""Links and the paths behind them, for tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import located, picture
from tests.unit.web.test_item_changes import added


@dataclass
class Shared:
    """A collection of ada's with two pictures and a text, and the paths that a link to it opens."""

    app: OpenAPI
    collection: str
    items: list[str]
    link: dict[str, Any]

    @property
    def path(self) -> str:
        return path_of(self.link)

    def paths(self) -> list[str]:
        """Return every path behind the link, for its first item."""
        return paths_behind(self.app, self.link, self.items[0])


def path_of(link: dict[str, Any]) -> str:
    """Return the path of a new link's address."""
    found = re.fullmatch(r"http://[^/]+(/s/rll_[\w-]{43})", link["address"])
    assert found
    return found[1]


def paths_behind(app: OpenAPI, link: dict[str, Any], item: str) -> list[str]:
    """Return the path of every route behind a link, as the app has them, for an item."""
    rules = [rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("shared.")]
    token = path_of(link).removeprefix("/s/")
    paths = [rule.replace("<string:token>", token).replace("<uuid:item_id>", item) for rule in rules]
    assert len(paths) >= 7
    assert not [path for path in paths if "<" in path]
    return paths


def made(caller: Caller, place: str, **asked: Any) -> dict[str, Any]:
    """Make a link to a collection or to the result of a search."""
    answer = caller.post(f"{place}/links", json={"name": "the family", **asked})
    assert answer.status_code == 201, answer.text
    return dict(answer.json)


@pytest.fixture
def shared(app: OpenAPI, ada: Caller, birds: str) -> Shared:
    """A collection of ada's and a link to it, which allows downloads."""
    items = [added(ada, birds, ("robin.jpg", located(48, 11))), added(ada, birds, ("wren.png", picture("blue")))]
    ada.post(f"/collections/{birds}/items?index=false", json={"items": [{"text": "a crow on a roof", "name": "crow"}]})
    ada.patch(f"/items/{items[0]}", json={"text": "a robin in snow"})
    return Shared(app, birds, items, made(ada, f"/collections/{birds}", downloads=True))
