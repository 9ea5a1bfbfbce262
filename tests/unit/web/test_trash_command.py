"""`retllm trash` lists, restores and deletes for good what was deleted."""

from __future__ import annotations

import json

import click
import pytest
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller

from retllm.cli.trash import trash
from retllm.errors import NotFound


@pytest.fixture
def items(ada: Caller, birds: str) -> list[str]:
    """Three texts in the trash."""
    texts = [{"text": text} for text in ("a robin", "a wren", "a crow")]
    ada.post(f"/collections/{birds}/items?index=false", json={"items": texts})
    keys = [one["id"] for one in ada.get(f"/collections/{birds}/items").json["items"]]
    ada.post(f"/collections/{birds}/items/delete", json={"items": keys})
    return keys


def test_deleted_items_are_listed_and_restored(run: Run, ada: Caller, birds: str, items: list[str]) -> None:
    shown = run(trash, "list", "Birds").stdout
    assert all(key in shown for key in items)
    assert "ada" in shown
    assert len(json.loads(lines(run(trash, "list", birds, "--json").stdout)[0])["items"]) == 3
    assert "Restored 1 item." in run(trash, "restore", "Birds", items[0]).stdout
    ada.post(f"/collections/{birds}/items?index=false", json={"items": [{"text": "a wren"}]})
    told = run(trash, "restore", "Birds", "--all").output
    assert "Restored 1 item." in told
    assert "a wren: not restored, the collection has the same content by now" in told


def test_the_trash_is_emptied(run: Run, ada: Caller, birds: str, items: list[str]) -> None:
    assert "Emptied the trash of Birds." in run(trash, "empty", "Birds", "--yes").stdout
    assert ada.get(f"/collections/{birds}/trash").json["items"] == []


def test_a_deleted_collection_is_listed_restored_and_deleted_for_good(run: Run, ada: Caller, birds: str) -> None:
    with pytest.raises(NotFound, match="no deleted collection named Birds"):
        run(trash, "restore", "Birds")
    ada.delete(f"/collections/{birds}")
    assert birds in run(trash, "list").stdout
    assert "Restored Birds." in run(trash, "restore", "Birds").stdout
    ada.delete(f"/collections/{birds}")
    again = ada.post("/collections", json={"name": "Birds"}).json["id"]
    ada.delete(f"/collections/{again}")
    # one has to say which
    assert run(trash, "empty", "Birds", "--deleted", "--yes").exit_code == click.UsageError.exit_code
    assert "Deleted Birds for good." in run(trash, "empty", birds, "--deleted", "--yes").stdout
    assert [one["id"] for one in ada.get("/trash").json["collections"]] == [again]


def test_items_and_all_exclude_each_other(run: Run, birds: str, items: list[str]) -> None:
    assert run(trash, "restore", "Birds", items[0], "--all").exit_code == click.UsageError.exit_code
