"""Every page follows the content security policy and is accessible."""

from __future__ import annotations

import itertools

import pytest
from flask import Flask
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor

_LABELLED = ("input", "select", "textarea")


@pytest.fixture
def every_page(app: Flask, reader: Visitor, searched: Searched, indexed: str, ada: Caller) -> list[Page]:
    """Every page of the platform, empty and filled."""
    fresh = ada.post("/collections", json={"name": "Empty"}).json["id"]
    index = ada.post(f"/collections/{indexed}/index").json["id"]
    searched.score(2, 0.7)
    paths = ["/", f"/collections/{indexed}", f"/collections/{fresh}", f"/items/{searched.items[0]}"]
    paths += ["/jobs", f"/jobs/{searched.id}", f"/jobs/{index}", "/account", "/nothing"]
    paths += ["/search", f"/search?again={searched.id}", f"/search?like={searched.items[0]}&k=x"]
    return [Visitor(app.test_client()).get("/login"), *(reader.get(path) for path in paths)]


def test_pages_have_no_inline_code_and_no_external_resources(every_page: list[Page]) -> None:
    for element in itertools.chain.from_iterable(page.elements for page in every_page):
        assert "style" not in element.attributes, element
        assert not [name for name in element.attributes if name.startswith("on")], element
        for name in ("src", "href", "action"):
            address = element.attributes.get(name) or ""
            assert "//" not in address, element
            assert not address.startswith(("javascript:", "data:")), element
        assert element.tag != "style"
        assert element.tag != "script" or ("src" in element.attributes and not element.text)


def test_pages_are_accessible(every_page: list[Page]) -> None:
    """Labels, ids, headings and alternative texts."""
    for page in every_page:
        ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
        assert len(ids) == len(set(ids)), page.path
        for element in page.elements:
            for name in ("aria-labelledby", "aria-describedby", "for"):
                for target in (element.attributes.get(name) or "").split():
                    assert target in ids, (page.path, element)
        labelled = {label.attributes.get("for") for label in page.all("label")}
        shown = [e for e in page.elements if e.attributes.get("type") != "hidden" and "hidden" not in e.attributes]
        fields = [e for e in shown if e.tag in _LABELLED]
        named = [e for e in fields if e.attributes.get("aria-label") or e.attributes.get("id") in labelled]
        assert named == fields, page.path
        levels = [int(e.tag[1]) for e in page.elements if e.tag in ("h1", "h2", "h3", "h4")]
        assert (levels.count(1), levels[0]) == (1, 1), page.path
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), page.path
        assert [e for e in page.all("img") if "alt" not in e.attributes] == [], page.path


def test_every_post_form_has_a_csrf_token(every_page: list[Page]) -> None:
    for page in every_page:
        assert len(page.all("form", method="post")) == len(page.all("input", name="csrf_token")), page.path
