"""`retllm map` makes the map of a collection, and tells where it is seen."""

from __future__ import annotations

import json

import pytest
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller
from tests.unit.web.test_item_changes import added
from tests.unit.web.test_maps import birds_on_map

from retllm.cli.client import RequestRejected
from retllm.cli.maps import map_collection

__all__ = ["birds_on_map"]


def test_the_map_is_made_and_its_page_named(run: Run, birds: str, birds_on_map: dict[str, str]) -> None:
    done = run(map_collection, "Birds")
    assert done.exit_code == 0
    shown = lines(done.stdout)[-1]
    assert shown.startswith("6 items on the map of ")
    assert f"see it at http://retllm.test/collections/{birds}/map." in shown
    (found,) = (json.loads(line) for line in lines(run(map_collection, "Birds", "--known", "--json").stdout))
    assert (found["items"], found["out_of_date"]) == (6, False)


def test_what_is_known_starts_no_job(run: Run, ada: Caller, birds: str) -> None:
    assert lines(run(map_collection, "Birds", "--known").stdout)[-1] == "There is no map yet."
    assert ada.get(f"/collections/{birds}/map").json["job_id"] is None


def test_nothing_indexed_is_an_error(run: Run, ada: Caller, birds: str) -> None:
    added(ada, birds, ("a.txt", b"a text"))
    with pytest.raises(RequestRejected, match="No item of the collection is indexed yet"):
        run(map_collection, "Birds")
