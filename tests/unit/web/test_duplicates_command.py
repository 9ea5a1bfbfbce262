"""`retllm duplicates` looks for near-duplicates, lists the groups, and tells whether all could be compared."""

from __future__ import annotations

import io
import json

from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller
from tests.unit.web.test_duplicates import pictures

from retllm.cli.duplicates import duplicates
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm_web.http.services import Services

__all__ = ["pictures"]


def test_the_groups_are_listed_the_picture_to_keep_first(run: Run, birds: str, pictures: dict[str, str]) -> None:
    done = run(duplicates, "Birds")
    assert done.exit_code == 0
    shown = lines(done.stdout)
    assert shown[-1] == f"3 groups; review them at http://retllm.test/collections/{birds}/duplicates"
    named = [line.split()[0] for line in shown if ".png" in line]
    assert named[::2] == ["1", "2", "3"]
    assert sorted(named[1::2]) == ["small/0.png", "small/1.png", "small/2.png"]
    (found,) = (json.loads(line) for line in lines(run(duplicates, "Birds", "--known", "--json").stdout))
    assert len(found["groups"]) == 3


def test_what_could_not_be_compared_is_an_exit_status(
    run: Run, ada: Caller, birds: str, pictures: dict[str, str], served: Services
) -> None:
    with transaction(served.sessions) as session:
        for item in session.query(Item):
            item.perceptual_hash = None
            broken = item.thumbnail_key
    assert broken is not None
    served.storage.put(broken, io.BytesIO(b"not a picture any more"))
    done = run(duplicates, "Birds")
    assert done.exit_code == 1
    assert "can't be read" in done.stderr or "not a readable picture" in done.stderr


def test_known_groups_start_no_job(run: Run, ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    assert lines(run(duplicates, "Birds", "--known").stdout)[-1].startswith("0 groups; ")
    assert ada.get(f"/collections/{birds}/duplicates").json["job_id"] is None
