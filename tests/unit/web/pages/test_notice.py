"""Pages for upload, search and results show the notice of the models, if there is one."""

from __future__ import annotations

import pytest
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor

from retllm.settings import PRESETS, Settings

NOTICE = PRESETS["demo"].notice
PAGES = ("/search", "/collections/{collection}", "/jobs/{search}", "/compare?of={search}&of={search_again}")


def _notices(page: Page) -> list[str]:
    assert page.status == 200
    return [one.text for one in page.all("p", role="note", class_="alert-warning")]


def _again(ada: Caller, collection: str) -> str:
    return str(ada.post(f"/collections/{collection}/searches", json={"text": "a bird"}).json["id"])


def _paths(collection: str, search: Searched, again: str) -> list[str]:
    return [path.format(collection=collection, search=search.id, search_again=again) for path in PAGES]


def test_the_demo_s_is_on_each_page_once(reader: Visitor, ada: Caller, indexed: str, searched: Searched) -> None:
    for path in _paths(indexed, searched, _again(ada, indexed)):
        assert _notices(reader.get(path)) == [NOTICE], path


def test_the_demo_s_is_in_the_answers_of_the_api(ada: Caller, indexed: str, searched: Searched) -> None:
    assert ada.get(f"/collections/{indexed}").json["notice"] == NOTICE
    assert [one["notice"] for one in ada.get("/collections").json["collections"]] == [NOTICE]
    assert ada.get(f"/searches/{searched.id}").json["notice"] == NOTICE


class TestOtherModels:
    """The same server with models that have a notice."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"preset": "paper"})

    def test_no_page_has_one(self, reader: Visitor, ada: Caller, indexed: str, searched: Searched) -> None:
        for path in _paths(indexed, searched, _again(ada, indexed)):
            assert _notices(reader.get(path)) == [], path

    def test_no_answer_has_one(self, ada: Caller, indexed: str, searched: Searched) -> None:
        assert ada.get(f"/collections/{indexed}").json["notice"] is None
        assert ada.get(f"/searches/{searched.id}").json["notice"] is None
