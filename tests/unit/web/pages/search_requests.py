"""Helpers for tests of the search form."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import PASSWORD
from tests.unit.web.pages.conftest import Page, Visitor

from retllm.db.enums import Role, Visibility
from retllm.db.jobs import Job
from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.db.tables import Collection
from retllm.identity import accounts
from retllm_web.http.services import Services


def search_on_collection(reader: Visitor, key: str, **fields: Any) -> Page:
    """Search from the collection's page, with the compact form."""
    reader.get(f"/collections/{key}")
    return reader.send(f"/collections/{key}/search", **fields)


def ask_on_page(reader: Visitor, key: str, **fields: Any) -> Page:
    """Search from the search page, with the values of its form overridden by ``fields``."""
    page = reader.get(f"/search?collection={key}")
    return reader.send("/search", **{**filled_form(page), **fields})


def filled_form(page: Page) -> dict[str, Any]:
    """Return what the form of a page would send unchanged."""
    sent: dict[str, Any] = {"text": page.one("textarea", id="text").text}
    select = ""
    for element in page.elements:
        has = element.attributes
        name, value = has.get("name") or "", has.get("value") or ""
        if element.tag == "select":
            select = name
        elif element.tag == "option" and (select not in sent or "selected" in has):
            # a browser sends the first option by default
            sent[select] = value
        elif element.tag == "input" and name not in ("", "csrf_token", "picture"):
            if has.get("type") != "checkbox":
                sent[name] = value
            elif "checked" in has:
                sent[name] = [*sent.get(name, []), value]
    return sent


def newest_search(served: Services) -> Search:
    with served.sessions() as session:
        return session.scalars(sa.select(Search).order_by(Search.id.desc()).limit(1)).one()


def count_jobs(served: Services) -> int:
    with served.sessions() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Job)) or 0


def log_in_viewer(app: Flask, served: Services, open_to_all: str | None = None) -> Visitor:
    with transaction(served.sessions) as session:
        accounts.create_user(session, "vera", PASSWORD, Role.VIEWER)
        if open_to_all:
            session.get_one(Collection, uuid.UUID(open_to_all)).visibility = Visibility.EVERYONE
    visitor = Visitor(app.test_client())
    visitor.log_in("vera")
    return visitor
