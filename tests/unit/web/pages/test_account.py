"""Tokens, created and revoked on a page."""

from __future__ import annotations

from flask import Flask
from tests.unit.web.pages.conftest import Visitor


def test_a_token_is_shown_once_and_works_until_it_is_revoked(app: Flask, reader: Visitor) -> None:
    reader.get("/account")
    made = reader.send("/account/tokens", name="notebook").one("input", id="made").attributes["value"]
    assert made
    assert reader.page is not None
    assert reader.page.headers["Cache-Control"] == "private, no-store"
    headers = {"Authorization": f"Bearer {made}"}
    assert app.test_client().get("/api/v1/me", headers=headers).status_code == 200
    page = reader.get("/account")
    assert made not in page.html
    forms = [form for form in page.all("form") if "Revoke" in form.text]
    buttons = [button for button in page.all("button") if button.text == "Revoke"]
    labelled = zip(forms, buttons, strict=True)
    (revoke,) = [form for form, button in labelled if button.attributes["aria-label"] == "Revoke notebook"]
    page = reader.send(str(revoke.attributes["action"]))
    assert "Token revoked" in page.text
    assert app.test_client().get("/api/v1/me", headers=headers).status_code == 401


def test_a_token_without_a_name_is_rejected(reader: Visitor) -> None:
    reader.get("/account")
    page = reader.send("/account/tokens", name="   ")
    assert page.status == 422
    assert "1 to 100" in page.one("div", id="name-problem").text
