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


def test_the_notice_of_the_demo_is_shown_once_on_each_page(
    reader: Visitor, ada: Caller, indexed: str, searched: Searched
) -> None:
    for path in _paths(indexed, searched, _again(ada, indexed)):
        assert _notices(reader.get(path)) == [NOTICE], path


def test_the_notice_of_the_demo_is_in_api_responses(ada: Caller, indexed: str, searched: Searched) -> None:
    assert ada.get(f"/collections/{indexed}").json["notice"] == NOTICE
    assert [one["notice"] for one in ada.get("/collections").json["collections"]] == [NOTICE]
    assert ada.get(f"/searches/{searched.id}").json["notice"] == NOTICE


class TestModelsWithoutNotice:
    """The same app with models that have no notice."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"preset": "paper"})

    def test_no_page_shows_a_notice(self, reader: Visitor, ada: Caller, indexed: str, searched: Searched) -> None:
        for path in _paths(indexed, searched, _again(ada, indexed)):
            assert _notices(reader.get(path)) == [], path

    def test_no_api_response_has_a_notice(self, ada: Caller, indexed: str, searched: Searched) -> None:
        assert ada.get(f"/collections/{indexed}").json["notice"] is None
        assert ada.get(f"/searches/{searched.id}").json["notice"] is None
